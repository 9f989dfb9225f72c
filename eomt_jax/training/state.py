"""Everything that one step of training changes, and where it lies on the mesh."""

import dataclasses
import functools
from typing import Any

import flax.struct
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Int32, UInt32

from eomt_jax.models.eomt import EoMT
from eomt_jax.parallel.mesh import replicated
from eomt_jax.parallel.partition import param_shardings, place
from eomt_jax.weights.wording import listed

PyTree = Any


@flax.struct.dataclass
class TrainState:
    """State of a run after `step` optimizer steps.

    Attributes:
      step: optimizer steps done.
      params: the network's, float32.
      opt_state: the optimizer's, sharded as its parameters are.
      rng: raw key of the run (`jax.random.key_data`), never changed: each step folds
        its number in. Raw, so that a checkpoint is plain arrays.
    """

    step: Int32[Array, ""]
    params: PyTree
    opt_state: optax.OptState
    rng: UInt32[Array, "..."]


def param_shapes(model: EoMT) -> PyTree:
    """Shapes of an EoMT's parameters, without computing any."""
    # Networks are equal and hash by their fields, which no type checker knows.
    network: Any = model
    return jax.tree.map(lambda shape: shape, _param_shapes(network))


@functools.lru_cache(maxsize=1)
def _param_shapes(model: EoMT) -> PyTree:
    # A run asks for them five times before its first step, and tracing takes a moment.
    return jax.eval_shape(lambda: _init_params(model, jax.random.key(0)))


def abstract_state(
    model: EoMT, tx: optax.GradientTransformation, mesh: Mesh
) -> TrainState:
    """The state as jax.ShapeDtypeStructs with shardings: what a restore wants."""
    key = jax.eval_shape(lambda: jax.random.key_data(jax.random.key(0)))
    params = param_shapes(model)
    opt_state = jax.eval_shape(tx.init, params)
    whole = replicated(mesh)

    def place(shape: Any, sharding: Any) -> Any:
        return jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=sharding)

    return TrainState(
        step=place(jax.ShapeDtypeStruct((), jnp.int32), whole),
        params=jax.tree.map(place, params, param_shardings(params, mesh)),
        opt_state=jax.tree.map(place, opt_state, param_shardings(opt_state, mesh)),
        rng=place(key, whole),
    )


def state_shardings(
    model: EoMT, tx: optax.GradientTransformation, mesh: Mesh
) -> TrainState:
    """A TrainState of NamedShardings."""
    return jax.tree.map(lambda leaf: leaf.sharding, abstract_state(model, tx, mesh))


def create_state(
    model: EoMT,
    tx: optax.GradientTransformation,
    rng: jax.Array,
    mesh: Mesh,
    *,
    loaded: PyTree | None = None,
) -> TrainState:
    """The state before the first step, each leaf created in its shards.

    No device and no host ever holds the whole of it, but for what is loaded.

    Args:
      model: an EoMT.
      tx: the optimizer.
      rng: key from `jax.random.key`; initialisation and training draw from it.
      mesh: from `parallel.mesh.create_mesh`.
      loaded: weights that replace initial ones: a tree with some or all of the
        parameters' names, as `initialization.initialize` gives. Queries may be fewer
        than the model's: they replace the first ones. NaN leaves the initial value.

    Raises:
      ValueError: a loaded weight is none of the model's or has another shape.
    """
    target = abstract_state(model, tx, mesh)
    shapes = _flatten(target.params)
    given = _check_loaded(loaded or {}, shapes)
    drawn = {
        path: leaf
        for path, leaf in shapes.items()
        if path not in given
        or given[path].shape != leaf.shape
        or np.isnan(given[path].sum())
    }
    init_rng, run_rng = jax.random.split(rng)

    def draw(key: jax.Array) -> dict[str, jax.Array]:
        # What is not returned is not computed, the network's forward pass included.
        params = _flatten(_init_params(model, key))
        return {path: params[path] for path in drawn}

    shardings = {path: leaf.sharding for path, leaf in drawn.items()}
    flat = jax.jit(draw, out_shardings=shardings)(init_rng)
    for path, value in given.items():
        if path in drawn:
            flat[path] = _replace(flat[path], value)
        else:
            host = np.asarray(value, shapes[path].dtype)
            flat[path] = place(host, shapes[path].sharding)
    # In the order of initialisation, so that trees print alike however they began.
    flat = {path: flat[path] for path in shapes}
    params = flax.traverse_util.unflatten_dict(flat, sep="/")

    def rest(params: PyTree, key: jax.Array) -> TrainState:
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            params=None,
            opt_state=tx.init(params),
            rng=jax.random.key_data(key),
        )

    shardings = jax.tree.map(lambda leaf: leaf.sharding, target)
    create = jax.jit(rest, out_shardings=dataclasses.replace(shardings, params=None))
    return dataclasses.replace(create(params, run_rng), params=params)


def _init_params(model: EoMT, key: jax.Array) -> PyTree:
    height, width = model.vit.image_size
    images = jnp.zeros((1, height, width, 3), jnp.uint8)
    return model.init(key, images)["params"]


def _flatten(tree: PyTree) -> dict[str, Any]:
    return flax.traverse_util.flatten_dict(tree, sep="/")  # pyright: ignore


def _replace(array: jax.Array, rows: np.ndarray) -> jax.Array:
    """The array with its first rows replaced, except where they are NaN."""

    # Under jit, for no process may have all of the array.
    def replace(array: jax.Array, rows: jax.Array) -> jax.Array:
        rows = jnp.where(jnp.isnan(rows), array[: len(rows)], rows)
        return array.at[: len(rows)].set(rows)

    replace = jax.jit(replace, out_shardings=array.sharding)
    return replace(array, np.asarray(rows, array.dtype))


def _check_loaded(loaded: PyTree, shapes: dict[str, Any]) -> dict[str, Any]:
    given = _flatten(loaded)

    def fits(path: str, value: Any) -> bool:
        if path not in shapes:
            return False
        wanted, found = shapes[path].shape, value.shape
        fewer = path == "queries" and found[0] < wanted[0] and found[1:] == wanted[1:]
        return fewer or found == wanted

    wrong = [
        f"{path} {value.shape}: "
        + (f"wanted {shapes[path].shape}" if path in shapes else "no such parameter")
        for path, value in given.items()
        if not fits(path, value)
    ]
    if wrong:
        raise ValueError(
            f"{len(wrong)} loaded weights do not fit the network: {listed(wrong)}"
        )
    return given
