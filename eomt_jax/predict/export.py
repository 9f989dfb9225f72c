"""A network as one program with its weights beside it, for machines without this library.

    folder/network.jax_export     StableHLO, as jax.export serialises it
    folder/weights.safetensors    its first argument: our single file, which
                                  eomt_jax.load opens again
    folder/export.json            what goes in, what comes out, the classes

The program is (weights, images) → {"mask_logits", "class_logits"}: images uint8
[B, H, W, 3] RGB, normalisation inside, logits as the network gives them, the last prediction
alone. The weights are an argument: as constants of the program they would be stored once
for each platform, and its format ends at 2 GB.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import flax.traverse_util
import jax
import jax.export
import jax.numpy as jnp
from etils import epath
from jaxtyping import Array, Float, UInt8

from eomt_jax.models.network import Network
from eomt_jax.parallel.platform import ANY, tracing_for
from eomt_jax.trees import from_variables, leaves_by_path, to_variables
from eomt_jax.types import DatasetInfo
from eomt_jax.weights.native import model_folder
from eomt_jax.weights.new_folder import new_folder

PROGRAM_FILE = "network.jax_export"
WEIGHTS_FILE = "weights.safetensors"
INFO_FILE = "export.json"
PLATFORMS = ("cpu", "cuda", "rocm", "tpu")


def export_network(
    model: Network,
    *,
    batch_size: int | None = None,
    platforms: Sequence[str] = ("cpu", "cuda", "tpu"),
) -> jax.export.Exported:
    """Returns the network as a function of weights and images, without Python of ours.

    Args:
      model: its dtype is the program's; the weights and logits are float32 always.
      batch_size: images a call; None leaves it open, for one program for all.
      platforms: of PLATFORMS; none of them needs to be here.

    Returns:
      (weights by our parameter paths, images) → logits by name.

    Raises:
      ValueError: an unknown platform or a batch size below 1.
    """
    unknown = [name for name in platforms if name not in PLATFORMS]
    if unknown or not platforms:
        raise ValueError(
            f"platforms {', '.join(platforms)[:200] or 'are none'}: there are "
            f"{', '.join(PLATFORMS)}."
        )
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"batch_size {batch_size} is below 1; None leaves it open.")

    def network(
        weights: Mapping[str, Array], images: UInt8[Array, "B H W 3"]
    ) -> dict[str, Float[Array, "B Q ..."]]:
        params = flax.traverse_util.unflatten_dict(weights, sep="/")
        out: Any = model.apply(to_variables(params), images)
        return {
            "mask_logits": out.mask_logits[-1],
            "class_logits": out.class_logits[-1],
        }

    (batch,) = (batch_size,) if batch_size else jax.export.symbolic_shape("B")
    images = jax.ShapeDtypeStruct((batch, *model.image_size, 3), jnp.uint8)
    one_image = jax.ShapeDtypeStruct((1, *images.shape[1:]), jnp.uint8)
    variables = jax.eval_shape(model.init, jax.random.key(0), one_image)
    weights = leaves_by_path(from_variables(variables))
    with tracing_for(ANY):
        return jax.export.export(jax.jit(network), platforms=tuple(platforms))(
            weights, images
        )


def save_export(
    folder: epath.PathLike,
    model: Network,
    params: dict[str, Any],
    *,
    dataset_info: DatasetInfo | None = None,
    batch_size: int | None = None,
    platforms: Sequence[str] = ("cpu", "cuda", "tpu"),
) -> None:
    """Writes the three files, all or none; may be in a bucket.

    Args:
      folder: a new one.
      model, batch_size, platforms: see `export_network`.
      params: of `model`, float32.
      dataset_info: its classes and task go into export.json.

    Raises:
      ValueError: as `export_network`, or there is something at `folder`.
    """
    exported = export_network(model, batch_size=batch_size, platforms=platforms)
    with new_folder(folder) as unfinished:
        (unfinished / PROGRAM_FILE).write_bytes(exported.serialize())
        model_folder.save_file(
            unfinished / WEIGHTS_FILE, model, params, dataset_info=dataset_info
        )
        text = json.dumps(_describe(exported, dataset_info), indent=2)
        (unfinished / INFO_FILE).write_text(text + "\n")


def _describe(
    exported: jax.export.Exported, dataset_info: DatasetInfo | None
) -> dict[str, Any]:
    """Returns what export.json holds, a description; open_export reads the classes."""
    (_, images), _ = jax.tree.unflatten(exported.in_tree, exported.in_avals)
    results = jax.tree.unflatten(exported.out_tree, exported.out_avals)
    return {
        "program": PROGRAM_FILE,
        "weights": WEIGHTS_FILE,
        "platforms": list(exported.platforms),
        "jax": jax.__version__,
        "inputs": {"images": _describe_array(images)},
        "outputs": {name: _describe_array(value) for name, value in results.items()},
        "dataset": json.loads(dataset_info.to_json()) if dataset_info else None,
    }


def _describe_array(value: Any) -> dict[str, Any]:
    shape = [size if isinstance(size, int) else str(size) for size in value.shape]
    return {"dtype": value.dtype.name, "shape": shape}
