"""The base of all dataset builders of this folder: records in, ArrayRecord out."""

import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import tensorflow_datasets as tfds
from tqdm import tqdm

from eomt_jax.datasets.disk import check_space
from eomt_jax.datasets.photographs import DamagedPhotographError
from eomt_jax.datasets.read_back import check_record, checksum
from eomt_jax.datasets.sources import shorten
from eomt_jax.file_names import check_name
from eomt_jax.pipeline import records
from eomt_jax.task_registry import get_task
from eomt_jax.types import ClassInfo, DatasetInfo

OPTIONS_KEY = "eomt_options"  # in metadata.json
EXAMPLES_PER_SHARD = 2048
MAX_PROBLEMS = 10  # are listed before a build gives up
_PROBLEM_LENGTH = 2000  # letters; files can hold names of any length
MAX_ASPECT_RATIO = 32  # evaluation in windows needs as many for one photograph


class RecordBuilder(tfds.core.ShardBasedBuilder, skip_registration=True):
    """A TFDS builder that writes `Record`s in the order given.

    Nothing is shuffled: the training loader draws its own order for each epoch, and
    shuffling here would write the whole dataset twice.

    A subclass sets VERSION, `classes` and `image_format`, and defines `plan` and
    `make_record`. What they open goes on `self.open_files`, and is closed after the
    last record. Irregularities that don't stop the build go through `note`.

    Attributes:
      options: what it is built with, as text; kept beside the records.
      skips_damaged: whether photographs that can't be decoded are left out rather than
        stop the build; None where that is no option.
      notes: names of the images (or files) by what was found about them.
      checksums: of what was written, see read_back.
    """

    VERSION = tfds.core.Version("1.0.0")
    classes: tuple[ClassInfo, ...] = ()
    task: str = "panoptic"
    image_format = "jpeg"
    description = ""
    needs_archives = False
    skips_damaged: bool | None = None
    # Nothing is downloaded; without this TFDS looks for lists of checksums.
    url_infos = None  # pyright: ignore

    def __init__(self, *, name: str = "", **kwargs: Any):
        """Args: name: of the prepared dataset; the builder's own by default."""
        if name:
            self.name = name  # pyright: ignore  # before TFDS makes a path of it
        super().__init__(**kwargs)
        self._progress: tqdm | None = None
        self.options: dict[str, str] = {}
        self.notes: dict[str, list[str]] = {}
        self.checksums: dict[str, dict[str, int]] = {}

    def note(self, what: str, *names: str) -> None:
        """Remembers an irregularity for the report after the build."""
        self.notes.setdefault(what, []).extend(names)

    def note_at_end(self, unseen: Sequence[ClassInfo]) -> None:
        """Adds the notes that need all records; `unseen` classes have no segment."""
        if unseen:
            self.note("classes that no image shows", *(c.name for c in unseen))

    def plan(self) -> Mapping[str, Sequence[Any]]:
        """Returns an item for each image of each split, in the order to be written."""
        raise NotImplementedError

    def make_record(self, item: Any) -> records.Record | None:
        """Returns the record of one item of the plan; None leaves it out."""
        raise NotImplementedError

    def num_bytes(self, item: Any) -> int:
        """Returns how many bytes an item's photograph has; 0 if that is unknown."""
        del item
        return 0

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.description,
            features=records.features(
                self.image_format, overlapping=get_task(self.task).overlapping
            ),
            metadata=tfds.core.MetadataDict(),
            disable_shuffling=True,
        )

    def _shard_iterators_per_split(
        self, dl_manager: Any
    ) -> Mapping[str, Sequence[Callable[[], Iterator[tuple[str, Any]]]]]:
        del dl_manager
        plan = self.plan()
        for split, items in plan.items():
            if not items:
                raise ValueError(f"{self.name}: there is no image for {split}")
        check_space(
            self.data_dir,
            sum(self.num_bytes(i) for items in plan.values() for i in items),
        )
        summary = _Summary()
        self._summary = summary
        self.checksums = {split: {} for split in plan}
        problems: list[str] = []
        ids: dict[str, set[str]] = {split: set() for split in plan}
        num_left = sum(map(len, plan.values()))
        self._progress = progress = tqdm(
            total=num_left,
            desc=f"building {self.name}",
            unit="image",
        )

        def shard(split: str, items: Sequence[Any]) -> Iterator[tuple[str, Any]]:
            nonlocal num_left  # a bar that is switched off doesn't count
            for item in items:
                record = self._try_record(item, problems, ids[split])
                num_left -= 1
                progress.update()
                if record is None:
                    continue
                summary.add(split, record)
                example = records.to_example(record)
                self.checksums[split][record.image_id] = checksum(example)
                yield record.image_id, example
            if not num_left:
                progress.close()
                _raise_problems(problems or self._find_empty(plan))

        return {
            split: [
                lambda split=split, start=start: shard(
                    split, plan[split][start : start + EXAMPLES_PER_SHARD]
                )
                for start in range(0, len(plan[split]), EXAMPLES_PER_SHARD)
            ]
            for split in plan
        }

    def _try_record(
        self, item: Any, problems: list[str], ids: set[str]
    ) -> records.Record | None:
        """Returns the record, or None and adds a problem; many problems stop the build.

        `ids` are those of the split's records so far; the new one joins them.
        """
        try:
            record = self.make_record(item)
            if record is not None:
                check_name(record.image_id, what="image id")
                _check_aspect_ratio(record)
                check_record(record, num_classes=len(self.classes))
                _check_id_is_new(record.image_id, ids)
        except ValueError as error:
            problem = str(error)
            if isinstance(error, DamagedPhotographError):
                if self.skips_damaged:
                    self.note("damaged photographs, left out", problem)
                    return None
                if self.skips_damaged is not None:
                    problem += "; --skip_damaged leaves such photographs out"
            problems.append(shorten(problem, _PROBLEM_LENGTH))
            if len(problems) == MAX_PROBLEMS:
                _raise_problems([*problems, "and maybe more"])
            return None
        return record

    def _find_empty(self, splits: Iterable[str]) -> list[str]:
        """Returns the splits of which nothing is left, and the reasons."""
        empty = [split for split in splits if split not in self._summary.num_examples]
        if not empty:
            return []
        left_out = [f"{len(names)} {what}" for what, names in self.notes.items()]
        return [f"{self.name}: no image is left for {' and '.join(empty)}", *left_out]

    def _log_download_bytes(self) -> None:
        """Does nothing, where TFDS would announce a download."""

    def _log_download_done(self) -> None:
        """Does nothing, for the caller reports."""

    def _download_and_prepare(self, dl_manager, download_config=None) -> None:
        with contextlib.ExitStack() as self.open_files:
            self.open_files.callback(lambda: self._progress and self._progress.close())
            super()._download_and_prepare(dl_manager, download_config)
        # TFDS writes the metadata right after this, into the same unfinished folder.
        info = self._summary.dataset_info(self.name, self.classes, self.task)
        unseen = [
            c for i, c in enumerate(self.classes) if i not in self._summary.labels
        ]
        self.note_at_end(unseen)
        assert isinstance(self.info.metadata, tfds.core.MetadataDict)
        self.info.metadata[records.METADATA_KEY] = json.loads(info.to_json())
        self.info.metadata[OPTIONS_KEY] = self.options


def _check_aspect_ratio(record: records.Record) -> None:
    if max(record.size) > MAX_ASPECT_RATIO * min(record.size):
        raise ValueError(
            f"{record.image_id} has {record.height} x {record.width} pixels: one side "
            f"is more than {MAX_ASPECT_RATIO} times the other; cut it, or leave it out"
        )


def _check_id_is_new(image_id: str, ids: set[str]) -> None:
    if image_id in ids:
        raise ValueError(
            f"two images of a split have the id {image_id}, by which predictions are "
            "told apart: rename one of them"
        )
    ids.add(image_id)


def _raise_problems(problems: Sequence[str]) -> None:
    if problems:
        raise ValueError("\n".join(problems))


@dataclasses.dataclass
class _Summary:
    """Sizes over the records written so far."""

    num_examples: dict[str, int] = dataclasses.field(default_factory=dict)
    labels: set[int] = dataclasses.field(default_factory=set)
    height: int = 0
    width: int = 0
    max_segments: int = 0
    max_aspect_ratio: float = 1.0

    def add(self, split: str, record: records.Record) -> None:
        self.num_examples[split] = self.num_examples.get(split, 0) + 1
        self.labels.update(record.labels.tolist())
        self.height = max(self.height, record.height)
        self.width = max(self.width, record.width)
        self.max_segments = max(self.max_segments, len(record.labels))
        aspect_ratio = max(record.size) / min(record.size)
        self.max_aspect_ratio = max(self.max_aspect_ratio, aspect_ratio)

    def dataset_info(
        self, name: str, classes: tuple[ClassInfo, ...], task: str
    ) -> DatasetInfo:
        return DatasetInfo(
            name=name,
            task=task,
            classes=classes,
            max_image_size=(self.height, self.width),
            max_segments=self.max_segments,
            num_examples=self.num_examples,
            max_aspect_ratio=self.max_aspect_ratio,
        )
