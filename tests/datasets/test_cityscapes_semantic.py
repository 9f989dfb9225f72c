"""Cityscapes is read from miniature archives, and damaged archives are refused."""

import numpy as np
import pytest

from eomt_jax import dataset_info
from eomt_jax.datasets import prepare
from eomt_jax.pipeline import records
from tests.datasets import map_archives
from tests.datasets.map_archives import GT_FINE, decode, encode

NAME = "cityscapes_semantic"
FIRST = "train/aachen/aachen_000000_000019"


@pytest.fixture
def drawn():
    """Returns (photographs, annotations)."""
    return map_archives.draw_cityscapes()


def build(tmp_path, drawn):
    map_archives.write_cityscapes(tmp_path / "archives", *drawn)
    return prepare.prepare(
        NAME, tmp_path / "prepared", archives=str(tmp_path / "archives")
    )


def test_records_equal_the_archives(tmp_path, drawn):
    info = build(tmp_path, drawn)
    photographs, annotations = drawn

    assert info.task == "semantic"
    assert info.num_examples == {"train": 3, "validation": 1}
    assert info.classes == dataset_info.load_classes(NAME)
    seen = []
    for split, folder in (("train", "train"), ("validation", "val")):
        for record in records.open_split(tmp_path / "prepared", NAME, split):
            city = record.image_id.partition("_")[0]
            name = f"{folder}/{city}/{record.image_id}"
            published = photographs[f"leftImg8bit/{name}_leftImg8bit.png"]
            assert record.image_bytes == published
            values = decode(annotations[f"gtFine/{name}_gtFine_labelIds.png"])
            present = [i for i, c in enumerate(info.classes) if (values == c.id).any()]
            assert record.labels.tolist() == present
            masks = record.masks()
            for t, label in enumerate(present):
                np.testing.assert_array_equal(
                    masks[..., t], values == info.classes[label].id
                )
            seen.append(record.image_id)
    assert seen == [
        "aachen_000000_000019",
        "aachen_000001_000019",
        "bochum_000000_000313",
        "lindau_000000_000019",
    ]


def test_label_id_that_does_not_exist_is_named(tmp_path, drawn):
    name = f"gtFine/{FIRST}_gtFine_labelIds.png"
    values = np.arange(24 * 32, dtype=np.uint8).reshape(24, 32) % 35
    drawn[1][name] = encode(values)
    with pytest.raises(ValueError, match=f"{name} has the value 34, .*known: 0 to 33"):
        build(tmp_path, drawn)


def test_label_map_of_another_size_is_named(tmp_path, drawn):
    name = f"gtFine/{FIRST}_gtFine_labelIds.png"
    drawn[1][name] = encode(np.arange(24 * 8, dtype=np.uint8).reshape(24, 8) % 30)
    with pytest.raises(ValueError, match=f"{name} has 24 x 8 pixels, .* has 24 x 32"):
        build(tmp_path, drawn)


def test_photograph_without_annotation_is_named(tmp_path, drawn):
    del drawn[1][f"gtFine/{FIRST}_gtFine_labelIds.png"]
    with pytest.raises(ValueError, match=f"have none in {GT_FINE}: .*{FIRST}"):
        build(tmp_path, drawn)
    assert records.prepared_versions(tmp_path / "prepared", NAME) == []


def test_annotations_of_another_kind_are_refused(tmp_path, drawn):
    renamed = {name.replace("gtFine", "gtCoarse"): x for name, x in drawn[1].items()}
    with pytest.raises(ValueError, match=f"{GT_FINE} is another archive .*gtCoarse"):
        build(tmp_path, (drawn[0], renamed))


def test_missing_archives_are_named(tmp_path):
    (tmp_path / "archives").mkdir()
    with pytest.raises(ValueError, match="gtFine_trainvaltest.zip: get it .*cityscape"):
        prepare.prepare(
            NAME, tmp_path / "prepared", archives=str(tmp_path / "archives")
        )
