"""ADE20K panoptic: stuff from the label maps, things from the instance maps.

An instance map has the class among the 100 that are things in its red channel, the
object's number in the image in its green one, and 0 where there is no object. Things
cover stuff; pixels that the label map gives to a thing's class without an object there
belong to nothing. Which photographs are left out, and sizes, as in ade20k_semantic.
"""

from collections.abc import Mapping

import numpy as np

from eomt_jax import dataset_info
from eomt_jax.datasets import label_maps, mask_pngs
from eomt_jax.datasets.ade20k_semantic import FOLDERS, SCENES, Ade20kSemantic
from eomt_jax.datasets.archives import Archive
from eomt_jax.datasets.label_maps import Item
from eomt_jax.datasets.sources import Source

INSTANCES = Archive(
    "annotations_instance.tar",
    "http://sceneparsing.csail.mit.edu/data/ChallengeData2017/annotations_instance.tar",
    "",
    tuple(f"annotations_instance/{folder}/" for folder in FOLDERS.values()),
    other_name="annotations_instance.zip",
)
_CLASSES = dataset_info.load_classes("ade20k_panoptic")
_THINGS = np.array([label for label, c in enumerate(_CLASSES) if c.is_thing])
_THING_CODE = 256  # times the instance class; below it are the classes of stuff


class Ade20kPanoptic(Ade20kSemantic):
    """Builder of `ade20k_panoptic`."""

    task = "panoptic"
    classes = _CLASSES
    archives = (SCENES, INSTANCES)
    codes = label_maps.class_codes(classes, void=[0])
    codes[1 + _THINGS] = 0
    description = "ADE20K with panoptic segments: 100 thing and 50 stuff classes."

    def plan_split(self, opened: Mapping[str, Source], folder: str) -> list[Item]:
        items = super().plan_split(opened, folder)
        self._instances = opened[INSTANCES.name]
        instances = label_maps.files_by_stem(
            self._instances, f"annotations_instance/{folder}/", ".png"
        )
        label_maps.check_paired(
            {item.image_id: item.photograph for item in items},
            instances,
            where=(SCENES.name, self._instances.name),
        )
        return items

    def find_segments(
        self, item: Item, values: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        codes = label_maps.encode_classes(values, self.codes, file=item.label_map)
        classes, numbers = self._read_instances(item, values.shape)
        is_thing = numbers > 0
        codes[is_thing] = (_THING_CODE * classes + numbers)[is_thing]

        segment_map, present = label_maps.number_segments(codes)
        instance_class = present // _THING_CODE
        labels = np.where(instance_class > 0, _THINGS[instance_class - 1], present - 1)
        return segment_map, labels.astype(np.int32)

    def _read_instances(
        self, item: Item, size: tuple[int, ...]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns each pixel's class, 1 … 100 where an object is, and its number."""
        folder = item.label_map.split("/")[-2]
        file = f"annotations_instance/{folder}/{item.image_id}.png"
        image = mask_pngs.read_rgb(self._instances.read(file), file=file)
        image = label_maps.resize_nearest(image, (size[0], size[1])).astype(np.uint16)
        classes, numbers = image[..., 0], image[..., 1]
        wrong = (numbers > 0) & ((classes < 1) | (classes > len(_THINGS)))
        if wrong.any():
            raise ValueError(
                f"{file} has an object of instance class {classes[wrong][0]}; there "
                f"are 1 to {len(_THINGS)}"
            )
        return classes, numbers
