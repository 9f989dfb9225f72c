"""Cityscapes' 19 classes, from the fine annotations.

Label maps hold label ids; those that Cityscapes leaves out of its evaluation stand for
no class. Photographs with one value all over the label map are left out, in training
and in validation, as the method's authors do.
"""

from collections.abc import Mapping, Sequence

from etils import epath

from eomt_jax import dataset_info
from eomt_jax.datasets import label_maps
from eomt_jax.datasets.archives import Archive, open_archives
from eomt_jax.datasets.label_maps import Item
from eomt_jax.datasets.sources import Source

_URL = "https://www.cityscapes-dataset.com/downloads/ (after registration)"
_SPLITS = {"train": "train", "validation": "val"}
_NUM_LABEL_IDS = 34
PHOTOGRAPHS = Archive(
    "leftImg8bit_trainvaltest.zip",
    _URL,
    "11 GB",
    tuple(f"leftImg8bit/{folder}/" for folder in _SPLITS.values()),
)
ANNOTATIONS = Archive(
    "gtFine_trainvaltest.zip",
    _URL,
    "0.25 GB",
    tuple(f"gtFine/{folder}/" for folder in _SPLITS.values()),
)


class CityscapesSemantic(label_maps.LabelMapBuilder):
    """Builder of `cityscapes_semantic`."""

    classes = dataset_info.load_classes("cityscapes_semantic")
    codes = label_maps.class_codes(classes, void=range(_NUM_LABEL_IDS))
    image_format = "png"
    needs_archives = True
    description = "Cityscapes with fine annotations: 19 classes."

    def __init__(self, *, archives: epath.PathLike | None = None, **kwargs):
        super().__init__(**kwargs)
        self._folder = archives

    def plan(self) -> Mapping[str, Sequence[Item]]:
        opened = open_archives(
            self._folder,
            (PHOTOGRAPHS, ANNOTATIONS),
            dataset=self.name,
            stack=self.open_files,
        )
        photographs, annotations = opened[PHOTOGRAPHS.name], opened[ANNOTATIONS.name]
        return {
            split: _plan_split(photographs, annotations, folder)
            for split, folder in _SPLITS.items()
        }


def _plan_split(photographs: Source, annotations: Source, folder: str) -> list[Item]:
    """Returns the photographs of a folder, city by city, as they lie."""
    files = label_maps.files_by_stem(
        photographs, f"leftImg8bit/{folder}/", "_leftImg8bit.png"
    )
    maps = label_maps.files_by_stem(
        annotations, f"gtFine/{folder}/", "_gtFine_labelIds.png"
    )
    label_maps.check_paired(files, maps, where=(photographs.name, annotations.name))
    items = [
        Item(stem.rpartition("/")[2], photographs, file, annotations, maps[stem])
        for stem, file in files.items()
    ]
    return sorted(items, key=lambda item: photographs.order(item.photograph))
