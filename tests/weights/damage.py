"""Damages files of a checkpoint in many ways, one at a time."""

import copy
import json

import jax
import numpy as np

from eomt_jax.weights.load import open_network

# Fields of a JSON file that the weights don't determine, or not completely.
FREE = {
    "layer_norm_eps",
    "rope_theta",
    "rope_parameters",
    "num_attention_heads",
    "num_blocks",
    "num_query_blocks",
    "image_size",
    "rope_rescale",
    "dtype",
    "remat",
}
STRANGE = [None, True, -1, 0, 3, 2.5, 10**30, float("nan"), "", "x", [], [0, -5], {}]


class Damage:
    """Changes one file at a time of a checkpoint, and reads it."""

    def __init__(self, path, file="", load=open_network):
        self.path = path
        self.load = load
        self.file = path / file if file else path
        self.good = self.file.read_bytes()
        self.loaded = load(path)
        self.counts = {"refused": 0, "harmless": 0}

    def try_bytes(self, data, what, *, compare_fields=True):
        """Replaces the file by `data`; the result must be right or an error."""
        if data == self.good:
            return
        self.file.write_bytes(data)
        try:
            loaded = self.load(self.path)
        except (ValueError, FileNotFoundError) as error:
            assert str(self.path) in str(error), what
            self.counts["refused"] += 1
        else:
            self.counts["harmless"] += 1
            wanted = jax.tree.leaves_with_path(self.loaded.params)
            found = jax.tree.leaves_with_path(loaded.params)
            assert [path for path, _ in found] == [path for path, _ in wanted], what
            for (_, a), (_, b) in zip(found, wanted, strict=True):
                # The shape differs if a config.json has another number of heads.
                np.testing.assert_array_equal(a.ravel(), b.ravel(), what)
            assert loaded.model == self.loaded.model or not compare_fields, what
        finally:
            self.file.write_bytes(self.good)

    def try_json(self, text, what):
        """Calls try_bytes for a file of JSON."""
        try:
            same = _free_fields(json.loads(text)) == _free_fields(json.loads(self.good))
        except ValueError:
            same = True
        data = text if isinstance(text, bytes) else text.encode()
        self.try_bytes(data, what, compare_fields=same)


def _free_fields(value):
    """Returns the FREE fields of a JSON file, at any depth."""
    if not isinstance(value, dict):
        return {}
    inside = [_free_fields(child) for child in value.values()]
    own = {name: field for name, field in value.items() if name in FREE}
    return {k: v for part in [*inside, own] for k, v in part.items()}


def damage_bytes(rng, good, *, stop=None):
    """Yields copies with bytes flipped, cut, inserted, removed or overwritten."""
    stop = stop or len(good)
    kind = rng.choice(["flip", "cut", "insert", "remove", "zeros", "swap"])
    at, length = int(rng.integers(stop)), int(rng.integers(1, 40))
    data = bytearray(good)
    if kind == "flip":
        data[at] ^= 1 << rng.integers(8)
    elif kind == "cut":
        del data[rng.integers(len(good)) :]
    elif kind == "insert":
        data[at:at] = rng.bytes(length)
    elif kind == "remove":
        del data[at : at + length]
    elif kind == "zeros":
        data[at : at + length] = bytes(len(data[at : at + length]))
    else:
        other = int(rng.integers(stop))
        first, second = data[at : at + 8], data[other : other + 8]
        data[at : at + len(second)] = second
        data[other : other + len(first)] = first
    return bytes(data), f"{kind} at {at}, {length}"


def json_edits(rng, value, count):
    """Yields copies of a JSON value, each with one change at a random place."""
    places = list(_places(value))
    for _ in range(count):
        changed = copy.deepcopy(value)
        holder = changed
        *parents, key = places[rng.integers(len(places))]
        for parent in parents:
            holder = holder[parent]
        kind = rng.choice(["strange", "delete", "add"])
        if kind == "strange":
            holder[key] = STRANGE[rng.integers(len(STRANGE))]
        elif kind == "delete":
            del holder[key]
        elif isinstance(holder, dict):
            holder["something_new"] = STRANGE[rng.integers(len(STRANGE))]
        else:
            holder.append(STRANGE[rng.integers(len(STRANGE))])
        yield changed, f"{kind} {[*parents, key]}: {changed}"


def _places(value):
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, child in items:
        yield (key,)
        if isinstance(child, dict | list):
            yield from ((key, *place) for place in _places(child))


def tensor_edits(rng, tensors):
    """Yields copies of a state dict, each with one tensor changed."""
    names = sorted(tensors)
    for i in range(65):
        name = names[rng.integers(len(names))]
        other = names[rng.integers(len(names))]
        value, rest = tensors[name], {k: v for k, v in tensors.items() if k != name}
        infinite = value.copy()
        infinite.flat[rng.integers(value.size)] = rng.choice([np.nan, np.inf])
        edits = {
            "rename": rest | {f"{name}x": value},
            "drop": rest,
            "add": tensors | {"extra.weight": value},
            "overwrite": rest | {other: value},
            "reshape": rest | {name: value.reshape(*value.shape, 1)},
            "longer": rest | {name: np.concatenate([value, value])},
            "shorter": rest | {name: value[:-1]},
            "empty": rest | {name: value[:0]},
            "integers": rest | {name: value.astype(np.int8)},
            "infinite": rest | {name: infinite},
            "twice": tensors | {f"_orig_mod.{name}": value},
            "float64": rest | {name: value.astype(np.float64)},
            "compiled": rest | {f"_orig_mod.{name}": value},
        }
        kind = list(edits)[i % len(edits)]
        yield edits[kind], f"{kind} {name} {other}"
