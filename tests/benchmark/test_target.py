"""Targets are found by name.

.ci/tpu compiles for a TPU, and test_gpu_compile.py for a GPU.
"""

import importlib.util
import re

import pytest

from eomt_jax.benchmark import gpu_cards, gpu_target, tpu_target
from eomt_jax.benchmark.target import open_target
from eomt_jax.parallel import gpu_memory


@pytest.mark.parametrize("name", ["v9:2x2", "gtx1080:1", "cpu:1", "banana"])
def test_unknown_names_are_refused_with_examples(name):
    with pytest.raises(ValueError, match=r"v5e:4x4, .*v5p:2x2x1.* rtx4090, .*h100:8"):
        open_target(name)


@pytest.mark.parametrize("name", ["v5e", "v5e-16", "v5e:4*4", "v5e:4"])
def test_slices_of_no_shape_are_refused(name):
    with pytest.raises(ValueError, match=r"v5e:4x4, .*v5p:2x2x1"):
        tpu_target.open_slice(name)


@pytest.mark.parametrize("name", ["h100", "h100:0", "h100:2x2", "h100:x"])
def test_cards_without_a_number_are_refused(name):
    with pytest.raises(ValueError, match=r"such as h100:8"):
        open_target(name)


@pytest.mark.parametrize("name, extra", [("v5e:2x2", "tpu"), ("l4:1", "cuda")])
def test_missing_compiler_says_how_to_install_it(monkeypatch, name, extra):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=rf"pip install 'eomt_jax\[{extra}\]'"):
        open_target(name)


def test_programs_leave_a_tenth_and_a_gigabyte_of_a_card():
    card = gpu_cards.CARDS["h100"]
    assert gpu_target.usable_memory(card) == pytest.approx(75.45e9, rel=1e-3)
    assert all(
        0.8 < gpu_target.usable_memory(card) / card.memory_bytes < 0.9
        for card in gpu_cards.CARDS.values()
    )


def test_peaks_agree_with_clocks_and_tensor_cores():
    # These are the dense multiply-adds with float32 sums that a multiprocessor begins
    # in a clock. An H100 lowers its clock for them.
    expected = {"h200": 2048, "h100": 2048, "a100": 1024, "a100_40gb": 1024}
    expected |= dict.fromkeys(("a6000", "l40s", "l4"), 512)
    expected |= dict.fromkeys(("rtx5090", "rtx4090", "rtx3090", "a10g", "rtx4080"), 256)
    expected["t4"] = 64
    for name, card in gpu_cards.CARDS.items():
        per_clock = card.flops / 2 / card.multiprocessors / card.clock / 1e9
        assert per_clock == pytest.approx(expected[name], rel=0.08), name


def test_card_is_described_to_the_compiler():
    text = gpu_cards.target_config(gpu_cards.CARDS["a6000"])
    fields = dict(re.findall(r"^ *(\w+): (\S+)$", text, re.MULTILINE))
    assert (fields["major"], fields["minor"]) == ("8", "6")
    assert fields["core_count"] == "84"
    assert fields["memory_bandwidth"] == "768000000000"
    assert fields["device_memory_size"] == "51045686313"


def test_jax_claims_most_of_a_gpu_unless_the_user_says_how_much(monkeypatch):
    for variable in ("XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION"):
        monkeypatch.delenv(variable, raising=False)
    gpu_memory.claim_most_memory()
    assert gpu_memory.os.environ["XLA_CLIENT_MEM_FRACTION"] == "0.9"
    monkeypatch.delenv("XLA_CLIENT_MEM_FRACTION")
    monkeypatch.setenv("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.5")
    gpu_memory.claim_most_memory()
    assert "XLA_CLIENT_MEM_FRACTION" not in gpu_memory.os.environ
