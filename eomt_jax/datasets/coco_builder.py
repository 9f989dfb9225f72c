"""The bases of builders of datasets in COCO's formats, and of those of COCO 2017."""

import abc
from collections.abc import Mapping, Sequence

from etils import epath

from eomt_jax.datasets.archives import Archive, open_archives
from eomt_jax.datasets.builder import RecordBuilder
from eomt_jax.datasets.coco_reader import AnnotatedImage, CocoReader
from eomt_jax.datasets.file_finder import FileFinder
from eomt_jax.datasets.photographs import PICTURE_ENDINGS
from eomt_jax.datasets.sources import Source
from eomt_jax.pipeline.records import Record

FOLDERS = {"train": "train2017", "validation": "val2017"}
_URL = "http://images.cocodataset.org"


def archive(folder: str, name: str, size: str, members: Sequence[str]) -> Archive:
    """Returns an archive of cocodataset.org."""
    return Archive(name, f"{_URL}/{folder}/{name}", size, tuple(members))


_PHOTOGRAPHS = (
    archive("zips", "train2017.zip", "19 GB", ["train2017/"]),
    archive("zips", "val2017.zip", "0.8 GB", ["val2017/"]),
)


PlanItem = tuple[CocoReader, AnnotatedImage, str]  # the last is the split


class CocoBuilder(RecordBuilder):
    """A builder whose records readers make.

    Attributes:
      negatives: whether photographs without a segment are trained on too.
      crowd_advice: what can be done about annotations of crowds alone, for messages.
    """

    crowd_advice = ""
    negatives = False

    def num_bytes(self, item: PlanItem) -> int:
        reader, image, _ = item
        return reader.photographs.size(image.file_name)

    def make_record(self, item: PlanItem) -> Record | None:
        reader, image, split = item
        return reader.make_record(image, split=split)

    def plan_split(
        self, split: str, reader: CocoReader, images: Sequence[AnnotatedImage]
    ) -> list[PlanItem]:
        """Returns the images of a split that are of use, in the order of their files.

        Photographs without a segment teach nothing and are left out of training. In
        validation they count where the metric sees what is found on them.

        Raises:
          ValueError: none is of use, or a file isn't there.
        """
        keeps_empty = reader.evaluates_empty and (split != "train" or self.negatives)
        used = [image for image in images if len(image.labels) or keeps_empty]
        if not any(len(image.labels) for image in used):
            raise ValueError(
                f"{reader.name} gives none of its {len(images):,} {split} photographs "
                f"a segment with a mask{reader.lack and '; '}{reader.lack}"
            )
        if all(image.is_crowd.all() for image in used):
            raise ValueError(
                f"{reader.name} gives its {len(images):,} {split} photographs crowds "
                "alone (iscrowd = 1), from which nothing can be learnt or measured"
                + self.crowd_advice
            )
        reader.check_files(used)
        kept = [i.image_id for i in used if not len(i.labels)]
        if kept and split == "train":
            self.note("train photographs without an object, kept as negatives", *kept)
        empty = {i.image_id for i in images} - {i.image_id for i in used}
        if empty:
            self.note(f"{split} photographs without a segment, left out", *empty)
        only_crowds = [i.image_id for i in used if len(i.labels) and i.is_crowd.all()]
        if only_crowds and split == "train":
            what = "train photographs with crowds alone, which training passes over"
            self.note(what, *only_crowds)
        return [(reader, image, split) for image in sorted(used, key=reader.order)]

    def note_crowds(self, readers: Sequence[CocoReader]) -> None:
        """Reports crowds, which training leaves out."""
        images = [image for reader in readers for image in reader.images]
        crowds = [i.file_name for i in images for is_crowd in i.is_crowd if is_crowd]
        if crowds:
            total = sum(len(image.labels) for image in images)
            self.note(
                f"of {total:,} segments are crowds (iscrowd = 1), left out of training"
                + self.crowd_advice,
                *crowds,
            )

    def note_unnamed(self, readers: Sequence[CocoReader]) -> None:
        """Reports photographs that no JSON names."""
        named: dict[FileFinder, set[str | None]] = {}
        for reader in readers:
            files = named.setdefault(reader.photographs, set())
            files |= {reader.photographs.find(i.file_name) for i in reader.images}
        for photographs, files in named.items():
            pictures = {
                name
                for name in photographs.source.names()
                if name.lower().endswith(PICTURE_ENDINGS)
            }
            unnamed = pictures - files
            if unnamed:
                what = f"photographs of {photographs.source.name} without annotation"
                self.note(f"{what}, left out", *unnamed)


class PublishedCocoBuilder(CocoBuilder):
    """A builder of COCO 2017; a subclass names the annotations' archive."""

    needs_archives = True
    annotations: Archive

    def __init__(self, *, archives: epath.PathLike | None = None, **kwargs):
        super().__init__(**kwargs)
        self._folder = archives

    @abc.abstractmethod
    def open_reader(
        self, folder: str, photographs: FileFinder, annotations: Source
    ) -> CocoReader:
        """Returns the reader of train2017 or val2017."""

    def plan(self) -> Mapping[str, Sequence[PlanItem]]:
        wanted = (*_PHOTOGRAPHS, self.annotations)
        opened = open_archives(
            self._folder, wanted, dataset=self.name, stack=self.open_files
        )
        readers = {
            split: self.open_reader(
                folder,
                FileFinder(opened[f"{folder}.zip"]),
                opened[self.annotations.name],
            )
            for split, folder in FOLDERS.items()
        }
        self.note_crowds(list(readers.values()))
        self.note_unnamed(list(readers.values()))
        return {
            split: self.plan_split(split, reader, reader.images)
            for split, reader in readers.items()
        }
