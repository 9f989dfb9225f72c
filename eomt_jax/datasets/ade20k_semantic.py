"""ADE20K's scene parsing benchmark: 150 classes, from one archive.

A label map has 0 where there is no class, else the class's number. One of another size
than its photograph is resized to it. Photographs with one value all over the label map
are left out, in training and in validation, as the method's authors do.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from etils import epath

from eomt_jax import dataset_info
from eomt_jax.datasets import label_maps
from eomt_jax.datasets.archives import Archive, open_archives
from eomt_jax.datasets.label_maps import Item
from eomt_jax.datasets.sources import Source

SCENES = Archive(
    "ADEChallengeData2016.zip",
    "http://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip",
    "0.9 GB",
    tuple(
        f"ADEChallengeData2016/{kind}/{folder}/"
        for kind in ("images", "annotations")
        for folder in ("training", "validation")
    ),
)
FOLDERS = {"train": "training", "validation": "validation"}


class Ade20kSemantic(label_maps.LabelMapBuilder):
    """Builder of `ade20k_semantic`."""

    classes = dataset_info.load_classes("ade20k_semantic")
    archives = (SCENES,)
    codes = label_maps.class_codes(classes, void=[0])
    needs_archives = True
    description = "ADE20K scene parsing: 150 classes."

    def __init__(self, *, archives: epath.PathLike | None = None, **kwargs):
        super().__init__(**kwargs)
        self._folder = archives

    def plan(self) -> Mapping[str, Sequence[Item]]:
        opened = open_archives(
            self._folder, self.archives, dataset=self.name, stack=self.open_files
        )
        return {
            split: self.plan_split(opened, folder) for split, folder in FOLDERS.items()
        }

    def plan_split(self, opened: Mapping[str, Source], folder: str) -> list[Item]:
        """Returns the photographs of a folder, in the order in which they lie."""
        source = opened[SCENES.name]
        images, annotations = (
            f"ADEChallengeData2016/{kind}/{folder}/"
            for kind in ("images", "annotations")
        )
        photographs = label_maps.files_by_stem(source, images, ".jpg")
        maps = label_maps.files_by_stem(source, annotations, ".png")
        label_maps.check_paired(photographs, maps, where=(images, annotations))
        items = [
            Item(stem, source, photograph, source, maps[stem])
            for stem, photograph in photographs.items()
        ]
        return sorted(items, key=lambda item: source.order(item.photograph))

    def fit(self, values: np.ndarray, size: tuple[int, int], file: str) -> np.ndarray:
        return label_maps.resize_nearest(values, size)
