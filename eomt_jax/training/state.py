"""The state that one step of training changes, and where it lies on the mesh."""

import dataclasses
import functools
from collections.abc import Collection
from typing import Any

import flax.struct
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Int32, UInt32

from eomt_jax.models.network import Network
from eomt_jax.parallel.mesh import replicated
from eomt_jax.parallel.partition import param_shardings, place
from eomt_jax.trees import (
    BATCH_STATS,
    from_variables,
    leaves_by_path,
    to_variables,
)
from eomt_jax.weights.wording import listed

PyTree = Any


@flax.struct.dataclass
class TrainState:
    """State of a run after `step` optimizer steps.

    Attributes:
      step: optimizer steps done.
      params: the network's, float32.
      opt_state: the optimizer's, sharded as its parameters are.
      batch_stats: running statistics of the network's batch normalisation, whole on
        every device; empty where it has none.
      rng: raw key of the run (`jax.random.key_data`), never changed: each step folds
        its number in. Raw, so that a checkpoint is plain arrays.
    """

    step: Int32[Array, ""]
    params: PyTree
    opt_state: optax.OptState
    rng: UInt32[Array, "..."]
    batch_stats: PyTree = dataclasses.field(default_factory=dict)

    @property
    def network_params(self) -> PyTree:
        """Parameters and batch statistics as one tree, see eomt_jax.trees."""
        return from_variables({"params": self.params, BATCH_STATS: self.batch_stats})


def param_shapes(model: Network) -> PyTree:
    """Returns the shapes of a network's parameters, without computing any."""
    return variable_shapes(model)["params"]


def variable_shapes(model: Network) -> PyTree:
    """Returns the shapes of "params" and, where there are any, "batch_stats"."""
    # Networks are equal and hash by their fields, which no type checker knows.
    network: Any = model
    return jax.tree.map(lambda shape: shape, _variable_shapes(network))


@functools.lru_cache(maxsize=1)
def _variable_shapes(model: Network) -> PyTree:
    # A run asks for them five times before its first step, and tracing takes a moment.
    return jax.eval_shape(lambda: _init(model, jax.random.key(0)))


def abstract_state(
    model: Network, tx: optax.GradientTransformation, mesh: Mesh
) -> TrainState:
    """Returns the state as jax.ShapeDtypeStructs with shardings, for a restore."""
    key = jax.eval_shape(lambda: jax.random.key_data(jax.random.key(0)))
    variables, rules = variable_shapes(model), model.partition_rules()
    opt_state = jax.eval_shape(tx.init, variables["params"])
    whole = replicated(mesh)

    def place(shape: Any, sharding: Any) -> Any:
        return jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=sharding)

    def place_all(tree: PyTree) -> PyTree:
        return jax.tree.map(place, tree, param_shardings(tree, mesh, rules))

    return TrainState(
        step=place(jax.ShapeDtypeStruct((), jnp.int32), whole),
        opt_state=place_all(opt_state),
        rng=place(key, whole),
        **to_variables(place_all(from_variables(variables))),
    )


def state_shardings(
    model: Network, tx: optax.GradientTransformation, mesh: Mesh
) -> TrainState:
    """Returns a TrainState of NamedShardings."""
    return jax.tree.map(lambda leaf: leaf.sharding, abstract_state(model, tx, mesh))


def create_state(
    model: Network,
    tx: optax.GradientTransformation,
    rng: jax.Array,
    mesh: Mesh,
    *,
    loaded: PyTree | None = None,
) -> TrainState:
    """Creates the state before the first step, each leaf in its shards.

    No device and no host ever holds the whole of it, except for what is loaded.

    Args:
      model: the network.
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
    shapes = leaves_by_path(target.network_params)
    given = leaves_by_path(loaded or {})
    _check_loaded(given, shapes, model.query_params)
    drawn = {
        path: leaf
        for path, leaf in shapes.items()
        if path not in given
        or given[path].shape != leaf.shape
        or np.isnan(given[path].sum())
    }
    init_rng, run_rng = jax.random.split(rng)

    def draw(key: jax.Array) -> dict[str, jax.Array]:
        # XLA computes only what is returned, so the network's forward pass isn't.
        params = leaves_by_path(from_variables(_init(model, key)))
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
    variables = to_variables(flax.traverse_util.unflatten_dict(flat, sep="/"))

    def rest(params: PyTree, key: jax.Array) -> TrainState:
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            params=None,
            opt_state=tx.init(params),
            rng=jax.random.key_data(key),
        )

    shardings = jax.tree.map(lambda leaf: leaf.sharding, target)
    shardings = dataclasses.replace(shardings, params=None, batch_stats={})
    create = jax.jit(rest, out_shardings=shardings)
    return dataclasses.replace(create(variables["params"], run_rng), **variables)


def _init(model: Network, key: jax.Array) -> PyTree:
    return model.init(key, jnp.zeros((1, *model.image_size, 3), jnp.uint8))


def _replace(array: jax.Array, rows: np.ndarray) -> jax.Array:
    """Returns the array with its first rows replaced, except where they are NaN."""

    # Under jit, for no process may have all of the array.
    def replace(array: jax.Array, rows: jax.Array) -> jax.Array:
        rows = jnp.where(jnp.isnan(rows), array[: len(rows)], rows)
        return array.at[: len(rows)].set(rows)

    replace = jax.jit(replace, out_shardings=array.sharding)
    return replace(array, np.asarray(rows, array.dtype))


def _check_loaded(
    given: dict[str, Any], shapes: dict[str, Any], query_params: Collection[str]
) -> None:
    """Raises ValueError unless every loaded array is one of the network's."""

    def fits(path: str, value: Any) -> bool:
        if path not in shapes:
            return False
        wanted, found = shapes[path].shape, value.shape
        fewer = found[:1] < wanted[:1] and found[1:] == wanted[1:]
        return found == wanted or fewer and path in query_params

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
