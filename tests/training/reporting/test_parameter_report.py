import jax
import numpy as np
import pytest

from eomt_jax.models import variants
from eomt_jax.training.reporting.parameter_report import (
    GroupReport,
    format_report,
    report_groups,
)
from eomt_jax.training.state import param_shapes


def create(**fields):
    sizes = {"embed_dim": 8, "depth": 1, "num_heads": 1, "mlp_dim": 8}
    return variants.create_eomt(
        "tiny",
        num_classes=3,
        num_queries=5,
        image_size=(32, 32),
        num_query_blocks=1,
        **sizes,
        **fields,
    )


@pytest.mark.parametrize(
    "fields", [{}, {"positions": "rotary", "qkv_bias": "no_key", "mlp_type": "swiglu"}]
)
def test_every_parameter_is_in_one_group(fields):
    model = create(**fields)
    report = report_groups(model, {}, ())
    total = sum(leaf.size for leaf in jax.tree.leaves(param_shapes(model)))
    assert sum(row.total for row in report) == sum(row.new for row in report) == total
    groups = [row.group for row in report]
    assert ("vit position embedding" in groups) == (not fields)


def test_loaded_resampled_and_new_are_told_apart():
    loaded = {
        "queries": np.zeros((2, 8)),
        "vit": {"position_embedding": np.zeros((2, 2, 8))},
    }
    report = report_groups(create(), loaded, ["vit/position_embedding"])
    rows = {row.group: row for row in report}
    assert rows["queries"] == GroupReport("queries", loaded=16, new=24)
    positions = "vit position embedding"
    assert rows[positions] == GroupReport(positions, resampled=32)
    assert rows["class head"].total == rows["class head"].new == 9 * 4


def test_format_report_aligns_and_sums():
    report = (GroupReport("queries", new=1200), GroupReport("vit", 30, 4, 1))
    assert format_report(report, ["a note"]).split("\n") == [
        "parameters  loaded  resampled    new  total",
        "queries          0          0  1,200  1,200",
        "vit             30          4      1     35",
        "all             30          4  1,201  1,235",
        "a note",
    ]
