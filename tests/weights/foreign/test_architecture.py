"""The published networks are recognised by their shapes; no tensor is made."""

import dataclasses

import pytest

from eomt_jax.models.variants import VARIANTS
from eomt_jax.weights.foreign.architecture import infer_architecture
from eomt_jax.weights.foreign.layouts import Architecture
from eomt_jax.weights.foreign.name_maps import DINOV3, HUB
from eomt_jax.weights.formats.files import Checkpoint

PUBLISHED = [name for name in VARIANTS if name != "tiny"]


def of_variant(name: str) -> Architecture:
    fields = dataclasses.asdict(VARIANTS[name])
    del fields["num_query_blocks"], fields["layer_scale_init"]
    rotary = fields["positions"] == "rotary"
    return Architecture(
        **fields,
        patch_size=16 if rotary else 14,
        grid_size=(14, 14) if rotary else (37, 37),
        num_register_tokens=4,
        class_position=not rotary,
    )


def shapes_alone(architecture: Architecture, naming) -> Checkpoint:
    shapes = {}
    for path, names in naming.table_of(architecture).items():
        rows, *rest = naming.layout(path).shape(architecture)
        shapes |= {name: (rows // len(names), *rest) for name in names}
    return Checkpoint("backbone", shapes=shapes, config={}, load=lambda name: None)


@pytest.mark.parametrize("variant", PUBLISHED)
def test_a_published_backbone_is_known_by_its_shapes(variant):
    wanted = of_variant(variant)
    naming = DINOV3 if wanted.positions == "rotary" else HUB
    found, _ = infer_architecture(shapes_alone(wanted, naming), naming)
    assert found == wanted


def test_the_widest_dinov2_has_heads_of_128():
    wanted = dataclasses.replace(
        of_variant("giant"), embed_dim=4096, num_heads=32, mlp_dim=512, depth=2
    )
    found, _ = infer_architecture(shapes_alone(wanted, HUB), HUB)
    assert found.num_heads == 32
