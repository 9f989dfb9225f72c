"""Opens what eomt-export wrote, as a network that a Segmenter takes."""

import json
from typing import Any

import jax
import jax.export
import numpy as np
import safetensors.numpy
from etils import epath
from flax import linen as nn
from jaxtyping import Array, UInt8

from eomt_jax import json_files
from eomt_jax.models.network import Network
from eomt_jax.parallel.partition import PartitionRules
from eomt_jax.predict.export import INFO_FILE, PROGRAM_FILE, WEIGHTS_FILE
from eomt_jax.regular_files import check_regular
from eomt_jax.types import DatasetInfo, Outputs


class ExportedNetwork(Network):
    """A program of eomt-export in the place of a network, for prediction alone.

    Its parameters are the program's weights by path.

    Attributes:
      program: a jax.export.Exported that takes any number of images a call.
    """

    num_classes: int
    num_queries: int
    program: Any

    @property
    def image_size(self) -> tuple[int, int]:
        _, height, width, _ = _images(self.program).shape
        return height, width

    @property
    def num_masked_layers(self) -> int:
        return 0

    def __call__(
        self,
        images: UInt8[Array, "B H W 3"],
        mask_probs: Any = None,
        rows: Any = None,
        *,
        train: bool = False,
    ) -> Outputs:
        """Predicts masks and classes; nothing but `images` may be given."""
        if mask_probs is not None or rows is not None or train:
            raise ValueError("an exported program predicts once, as in inference")
        found = self.program.call(dict(self.variables["params"]), images)
        return Outputs(
            mask_logits=(found["mask_logits"],), class_logits=(found["class_logits"],)
        )

    @nn.nowrap
    def partition_rules(self) -> PartitionRules:
        return PartitionRules(others=())


def open_export(
    folder: epath.PathLike,
) -> tuple[ExportedNetwork, dict[str, np.ndarray], DatasetInfo | None]:
    """Returns the network, its parameters and, if the folder has them, its classes.

    Args:
      folder: from eomt-export, without --batch; may be in a bucket.

    Raises:
      ValueError: a file is missing or damaged, the program is not for this platform, or
        it takes a fixed number of images.
    """
    folder = epath.Path(folder).expanduser()
    program = _read_program(folder / PROGRAM_FILE)
    weights = _read(folder / WEIGHTS_FILE, safetensors.numpy.load)
    described = json_files.read_object(folder / INFO_FILE)
    info = described.get("dataset")
    if info is not None:
        info = _parse_info(info, folder / INFO_FILE)
    outputs = jax.tree.unflatten(program.out_tree, program.out_avals)
    _, num_queries, num_logits = outputs["class_logits"].shape
    network = ExportedNetwork(
        num_classes=num_logits - 1, num_queries=num_queries, program=program
    )
    return network, weights, info


def _read_program(path: epath.Path) -> jax.export.Exported:
    program = _read(path, lambda encoded: jax.export.deserialize(bytearray(encoded)))
    here = jax.default_backend()
    platforms = [name.lower() for name in program.platforms]
    if not {here, {"gpu": "cuda"}.get(here, here)} & set(platforms):
        raise ValueError(
            f"{path} runs on {', '.join(platforms)} and this is a {here}: export it "
            "again with --platforms"
        )
    count = _images(program).shape[0]
    if not jax.export.is_symbolic_dim(count):
        raise ValueError(
            f"{path} takes {count} images a call: export it again without --batch, for "
            "any number"
        )
    return program


def _read(path: epath.Path, parse: Any) -> Any:
    """Returns the parsed bytes of a file; ValueError names one that can't be read."""
    check_regular(path)
    try:
        return parse(path.read_bytes())
    except FileNotFoundError as error:
        raise ValueError(
            f"{path} does not exist; eomt-export CHECKPOINT OUT writes such a folder"
        ) from error
    # flatbuffers and safetensors report damage in many ways.
    except Exception as error:
        raise ValueError(f"{path} can't be read: {str(error)[:200]}") from error


def _parse_info(value: Any, path: epath.Path) -> DatasetInfo:
    try:
        return DatasetInfo.from_json(json.dumps(value))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error


def _images(program: jax.export.Exported) -> Any:
    """Returns the shape and type of the program's images."""
    (_, images), _ = jax.tree.unflatten(program.in_tree, program.in_avals)
    return images
