"""Prepared records: their content, how they are stored, and how a split is read.

A prepared dataset is a TFDS dataset in ArrayRecord files whose metadata.json holds its
classes (`DatasetInfo`). Nothing here or below needs TensorFlow. TFDS itself is imported
only when a dataset is opened, which saves half a second where none is.

Legend: H W photograph pixels, T segments of one image.
"""

import dataclasses
import io
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epath
from jaxtyping import Bool
from PIL import Image
from pycocotools import mask as mask_codec

from eomt_jax import json_files
from eomt_jax.regular_files import check_folder
from eomt_jax.types import DatasetInfo

METADATA_KEY = "eomt_dataset_info"
_METADATA_FILE = "metadata.json"
_DATASET_INFO_FILE = "dataset_info.json"
_ENCODED = ("image", "segment_map")


@dataclasses.dataclass(frozen=True)
class Record:
    """One image with its segments: an id map if they don't overlap, otherwise masks.

    Attributes:
      image_bytes: the photograph as published, still encoded (JPEG or PNG).
      labels: int32 [T], class index of each segment.
      is_crowd: bool [T], True where the segment is a group of things of one class.
      image_id: the dataset's own name of the image.
      height: H, rows of the photograph.
      width: W, columns of the photograph.
      segment_map: uint16 [H, W]; 0 where there is no segment, t + 1 on segment t.
      rles: masks that may overlap, one a segment, in COCO's compressed run lengths
        (the "counts" of pycocotools).
      areas: float64 [T], beside `rles`: the published areas in pixels, by which average
        precision calls objects small, medium or large.
      file_name: the photograph's in the folder or archive it comes from; empty where
        there is none, and in datasets that were prepared before it was kept.
    """

    image_bytes: bytes
    labels: np.ndarray
    is_crowd: np.ndarray
    image_id: str
    height: int
    width: int
    segment_map: np.ndarray | None = None
    rles: tuple[bytes, ...] | None = None
    areas: np.ndarray | None = None
    file_name: str = ""

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the segments; the photograph should have the same size."""
        if self.segment_map is not None:
            height, width = self.segment_map.shape
            return height, width
        return self.height, self.width

    def masks(self) -> Bool[np.ndarray, "H W T"]:
        """Returns every segment's mask, whichever form the segments have."""
        if self.segment_map is not None:
            return self.segment_map[..., None] == np.arange(1, len(self.labels) + 1)
        if not self.rles:
            return np.zeros((*self.size, 0), bool)
        rles: Any = [{"size": list(self.size), "counts": rle} for rle in self.rles]
        return mask_codec.decode(rles).astype(bool)


def features(image_format: str = "jpeg", *, overlapping: bool = False) -> Any:
    """Returns the features that the builders in data/ declare to TFDS.

    Args:
      image_format: "jpeg" or "png".
      overlapping: segments may overlap, so each has a mask of its own.

    Returns:
      A tfds.features.FeaturesDict.
    """
    import tensorflow_datasets as tfds

    segments: dict[str, Any] = {
        "segment_map": tfds.features.Image(
            shape=(None, None, 1), dtype=np.uint16, encoding_format="png"
        )
    }
    if overlapping:
        segments = {
            "rles": tfds.features.Sequence(tfds.features.Text()),
            "areas": tfds.features.Tensor(shape=(None,), dtype=np.float64),
        }
    return tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(
                shape=(None, None, 3), encoding_format=image_format
            ),
            **segments,
            "labels": tfds.features.Tensor(shape=(None,), dtype=np.int32),
            "is_crowd": tfds.features.Tensor(shape=(None,), dtype=np.bool_),
            "image_id": tfds.features.Text(),
            "file_name": tfds.features.Text(),
            "height": tfds.features.Scalar(dtype=np.int32),
            "width": tfds.features.Scalar(dtype=np.int32),
        }
    )


def to_example(record: Record) -> dict[str, Any]:
    """Returns a record in the form that TFDS stores.

    Images are given as encoded bytes, so that TFDS needs no TensorFlow to encode them.
    """
    example = {
        "image": io.BytesIO(record.image_bytes),
        "labels": np.asarray(record.labels, np.int32),
        "is_crowd": np.asarray(record.is_crowd, np.bool_),
        "image_id": record.image_id,
        # A name that is no UTF-8 is only for people to read, and must not stop a build.
        "file_name": record.file_name.encode(errors="replace").decode(),
        "height": record.height,
        "width": record.width,
    }
    if record.segment_map is not None:
        encoded = encode_segment_map(record.segment_map)
        return {**example, "segment_map": io.BytesIO(encoded)}
    areas = np.asarray(record.areas, np.float64)
    return {**example, "rles": list(record.rles or ()), "areas": areas}


def from_example(example: Mapping[str, Any]) -> Record:
    """Returns the record of an example of `to_example` that TFDS has not decoded."""
    masks: dict[str, Any] = {}
    if "segment_map" in example:
        masks["segment_map"] = decode_segment_map(bytes(example["segment_map"]))
    else:
        masks["rles"] = tuple(bytes(rle) for rle in example["rles"])
        masks["areas"] = np.asarray(example["areas"], np.float64)
    return Record(
        image_bytes=bytes(example["image"]),
        labels=np.asarray(example["labels"], np.int32),
        is_crowd=np.asarray(example["is_crowd"], np.bool_),
        image_id=_text(example["image_id"]),
        file_name=_text(example.get("file_name", "")),
        height=int(example["height"]),
        width=int(example["width"]),
        **masks,
    )


def encode_segment_map(segment_map: np.ndarray) -> bytes:
    """Returns an id map [H, W] as PNG: 8 bits a pixel up to 255 segments, or 16."""
    largest = int(segment_map.max(initial=0))
    if largest > 65_535:
        raise ValueError(f"an id map holds {largest} segments, at most 65535 fit")
    dtype = np.uint8 if largest <= 255 else np.uint16
    encoded = io.BytesIO()
    Image.fromarray(segment_map.astype(dtype)).save(encoded, format="PNG")
    return encoded.getvalue()


def decode_segment_map(encoded: bytes) -> np.ndarray:
    """Returns uint16 [H, W] from a PNG of `encode_segment_map`."""
    with Image.open(io.BytesIO(encoded), formats=["PNG"]) as image:
        return np.asarray(image).astype(np.uint16)


class RecordSource:
    """Random access to one split of one prepared dataset.

    It pickles as its folder and split alone, so that worker processes open the files
    by themselves.

    Attributes:
      info: the dataset's classes and sizes.
      split: "train" or "validation", or part of one as TFDS writes it: "train[:8]".
    """

    def __init__(self, directory: epath.PathLike, split: str):
        """Opens `directory`, one version of a prepared dataset."""
        import tensorflow_datasets as tfds

        self.directory = epath.Path(directory)
        self.split = split
        check_folder(self.directory)
        self.info = read_prepared_info(self.directory)
        builder = tfds.builder_from_directory(self.directory)
        if split.partition("[")[0] not in builder.info.splits:
            known = ", ".join(sorted(builder.info.splits))
            raise ValueError(
                f"{self.info.name} in {self.directory} has no split {split!r}; "
                f"it has {known}, and parts of them such as train[:100]"
            )
        skip = tfds.decode.SkipDecoding()
        stored: Any = builder.info.features
        decoders = {name: skip for name in _ENCODED if name in stored}
        open_source: Any = builder.as_data_source
        self._source = open_source(split, decoders=decoders)

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Record:
        """Returns record `index`, its image encoded; IndexError past either end."""
        return from_example(self.example(index))

    def example(self, index: int) -> Mapping[str, Any]:
        """Returns what is stored of record `index`, see `to_example`.

        Raises:
          ValueError: its file is damaged.
        """
        index = int(index)
        if not 0 <= index < len(self):
            raise IndexError(f"record {index} of {len(self)} in {self!r}")
        try:
            return self._source[index]
        except RuntimeError as error:  # ArrayRecord's, where its own checksums fail
            raise ValueError(
                f"record {index} of {self.split} in {self.directory} is damaged "
                f"({error}); prepare {self.info.name} again with --overwrite"
            ) from error

    def image_id(self, index: int) -> str:
        """Returns the dataset's own name of image `index`."""
        return _text(self.example(index)["image_id"])

    def __reduce__(self):
        return (type(self), (str(self.directory), self.split))

    def __repr__(self) -> str:
        return f"RecordSource({self.info.name!r}, {self.split!r}, {len(self)} images)"


def open_split(data_dir: epath.PathLike, name: str, split: str) -> RecordSource:
    """Opens `split` of the newest prepared version of dataset `name`.

    Raises:
      ValueError: the dataset isn't prepared in `data_dir`, or has no such split.
    """
    return RecordSource(_prepared_directory(data_dir, name), split)


def read_info(data_dir: epath.PathLike, name: str) -> DatasetInfo:
    """Returns the class table of a prepared dataset; ValueError if it isn't one."""
    return read_prepared_info(_prepared_directory(data_dir, name))


def prepared_versions(data_dir: epath.PathLike, name: str) -> list[epath.Path]:
    """Returns the folders of finished builds of `name`, oldest version first."""
    root = epath.Path(data_dir).expanduser() / name
    if not root.exists():
        return []
    versions = [path for path in root.iterdir() if _version_number(path)]
    finished = [path for path in versions if is_prepared(path)]
    return sorted(finished, key=_version_number)


def is_prepared(directory: epath.Path) -> bool:
    """Returns whether this is a finished version of a prepared dataset."""
    return all(
        (directory / file).exists() for file in (_METADATA_FILE, _DATASET_INFO_FILE)
    )


def _version_number(path: epath.Path) -> tuple[int, ...]:
    parts = path.name.split(".")
    return tuple(map(int, parts)) if all(part.isdigit() for part in parts) else ()


def _prepared_directory(data_dir: epath.PathLike, name: str) -> epath.Path:
    versions = prepared_versions(data_dir, name)
    if versions:
        return versions[-1]
    raise ValueError(
        f"dataset {name!r} is not prepared in {data_dir}. Prepare it with: "
        f"python data/prepare.py {name} --archives=DIR --data_dir={data_dir} "
        "(a published dataset; docs/own_data.md prepares your own)"
    )


def read_prepared_info(directory: epath.Path) -> DatasetInfo:
    """Returns the class table in the metadata of one version of a prepared dataset."""
    metadata = json_files.read_object(directory / _METADATA_FILE)
    if METADATA_KEY not in metadata:
        raise ValueError(
            f"{directory} is a TFDS dataset without a class table in its metadata; "
            "prepare it with data/prepare.py"
        )
    try:
        return DatasetInfo.from_json(json.dumps(metadata[METADATA_KEY]))
    except ValueError as error:
        raise ValueError(f"{directory / _METADATA_FILE}: {error}") from error


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
