"""Splits of a user's images: by the paths given, and at random."""

import pytest

from data.splits import parse_split_paths, random_split

NAMES = [f"image_{i}" for i in range(200)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("photos", {"": "photos"}),
        (" ~/a,b/photos.zip ", {"": "~/a,b/photos.zip"}),
        ("gs://bucket/x=1/photos", {"": "gs://bucket/x=1/photos"}),
        ("train=a,validation=b", {"train": "a", "validation": "b"}),
        ("validation=b, c,train=a", {"train": "a", "validation": "b, c"}),
        ("train=/x=1,2", {"train": "/x=1,2"}),
    ],
)
def test_parse_split_paths(text, expected):
    assert parse_split_paths(text) == expected


@pytest.mark.parametrize(
    "text", ["", "train=a,train=b", "train=,validation=b", "a,train=b", "train= "]
)
def test_parse_split_paths_refuses_what_is_unclear(text):
    with pytest.raises(ValueError, match="is neither PATH nor train=PATH,validation"):
        parse_split_paths(text)


def test_parse_split_paths_refuses_other_splits():
    with pytest.raises(ValueError, match="names the split 'val'; there are train and"):
        parse_split_paths("train=a,val=b")


def test_random_split_is_a_partition_of_the_wanted_size():
    split = random_split(NAMES, validation=0.1, seed=0)
    assert len(split["validation"]) == 20
    assert sorted(split["train"] + split["validation"]) == sorted(NAMES)
    assert split["train"] == sorted(split["train"])


def test_random_split_depends_on_names_and_seed_alone():
    first = random_split(NAMES, validation=0.2, seed=3)
    assert random_split(reversed(NAMES), validation=0.2, seed=3) == first
    assert random_split(NAMES, validation=0.2, seed=4) != first


def test_random_split_stays_what_it_was():
    split = random_split("abcdefgh", validation=0.25, seed=0)
    assert split == {"train": list("abcdeh"), "validation": list("fg")}


def test_random_split_moves_few_images_when_one_is_added():
    before = random_split(NAMES, validation=0.2, seed=0)
    after = random_split([*NAMES, "new"], validation=0.2, seed=0)
    assert len(set(before["validation"]) ^ set(after["validation"])) <= 2


@pytest.mark.parametrize("validation", [0.01, 0.99])
def test_random_split_leaves_no_split_empty(validation):
    split = random_split(["a", "b", "c"], validation=validation, seed=0)
    assert min(len(split["train"]), len(split["validation"])) == 1


def test_random_split_refuses_what_can_not_be_split():
    with pytest.raises(ValueError, match="1 image can't be split"):
        random_split(["a"], validation=0.5, seed=0)
    for share in (0, 1, -0.1, 20):
        with pytest.raises(ValueError, match=f"validation={share} is no share"):
            random_split(NAMES, validation=share, seed=0)
