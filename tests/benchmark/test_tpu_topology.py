"""Slices by name. Compiling for one is .ci/tpu's."""

import importlib.util

import pytest

from eomt_jax.benchmark import tpu_topology


@pytest.mark.parametrize("name", ["v5e", "v9:2x2", "v5e-16", "v5e:4*4", "v5e:4"])
def test_unknown_names_are_refused_with_examples(name):
    with pytest.raises(ValueError, match=r"v5e:4x4, .*v5p:2x2x1"):
        tpu_topology.open_slice(name)


def test_missing_compiler_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'eomt_jax\[tpu\]'"):
        tpu_topology.open_slice("v5e:2x2")
