"""A user's images are split by the given paths, or at random."""

import pytest

from eomt_jax.datasets import splits
from eomt_jax.datasets.splits import draw_splits, parse_split_paths, random_split

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
        (
            "train=a,valid=b,test=c,night=d",
            {"train": "a", "validation": "b", "test": "c", "night": "d"},
        ),
    ],
)
def test_parse_split_paths(text, expected):
    assert parse_split_paths(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "train=a,train=b",
        "train=,validation=b",
        "a,train=b",
        "train= ",
        "val=a,validation=b",
    ],
)
def test_parse_split_paths_refuses_what_is_unclear(text):
    with pytest.raises(ValueError, match="is neither PATH nor train=PATH,validation"):
        parse_split_paths(text)


def test_parse_split_paths_refuses_the_name_of_all_splits():
    with pytest.raises(ValueError, match="names a split 'all', a name that stands"):
        parse_split_paths("train=a,all=b")


def test_random_split_is_a_partition_of_the_wanted_size():
    split = random_split(NAMES, shares={"validation": 0.1}, seed=0)
    assert len(split["validation"]) == 20
    assert sorted(split["train"] + split["validation"]) == sorted(NAMES)
    assert split["train"] == sorted(split["train"])


def test_random_split_depends_on_names_and_seed_alone():
    first = random_split(NAMES, shares={"validation": 0.2}, seed=3)
    assert random_split(reversed(NAMES), shares={"validation": 0.2}, seed=3) == first
    assert random_split(NAMES, shares={"validation": 0.2}, seed=4) != first


def test_random_split_stays_what_it_was():
    split = random_split("abcdefgh", shares={"validation": 0.25}, seed=0)
    assert split == {"train": list("abcdeh"), "validation": list("fg")}


def test_random_split_moves_few_images_when_one_is_added():
    before = random_split(NAMES, shares={"validation": 0.2}, seed=0)
    after = random_split([*NAMES, "new"], shares={"validation": 0.2}, seed=0)
    assert len(set(before["validation"]) ^ set(after["validation"])) <= 2


@pytest.mark.parametrize("validation", [0.01, 0.99])
def test_random_split_leaves_no_split_empty(validation):
    split = random_split(["a", "b", "c"], shares={"validation": validation}, seed=0)
    assert min(len(split["train"]), len(split["validation"])) == 1


def test_random_split_into_three_leaves_validation_what_it_was():
    """Images of the test split are taken from those of training."""
    two = random_split(NAMES, shares={"validation": 0.1}, seed=0)
    three = random_split(NAMES, shares={"validation": 0.1, "test": 0.25}, seed=0)
    assert list(three) == ["train", "validation", "test"]
    assert three["validation"] == two["validation"]
    assert [len(names) for names in three.values()] == [130, 20, 50]
    assert sorted(name for names in three.values() for name in names) == sorted(NAMES)


def test_random_split_of_few_images_gives_each_split_one():
    shares = {"validation": 0.8, "test": 0.1}
    split = random_split("abc", shares=shares, seed=0)
    assert [len(names) for names in split.values()] == [1, 1, 1]


def test_random_split_refuses_what_can_not_be_split():
    with pytest.raises(ValueError, match="1 image can't be split into train, valid"):
        random_split(["a"], shares={"validation": 0.5}, seed=0)
    shares = {"validation": 0.5, "test": 0.5}
    with pytest.raises(ValueError, match="2 images can't be .*, test: give 3 or more"):
        random_split("ab", shares=shares, seed=0)
    with pytest.raises(ValueError, match="--validation=0.5 and --test=0.5 leave noth"):
        random_split(NAMES, shares=shares, seed=0)


def draw(named, **options):
    defaults = {"validation": None, "test": None, "seed": 0}
    drawn = draw_splits(named, **{**defaults, **options})
    return {split: len(names) for split, names in drawn.items()}


def test_draw_splits_takes_a_tenth_of_a_single_path_unless_asked():
    assert draw({"": NAMES}) == {"train": 180, "validation": 20}
    assert draw({"": NAMES}, test="0.2") == {"train": 140, "validation": 20, "test": 40}
    assert draw({"": NAMES}, validation=0) == {"train": 200}


def test_draw_splits_leaves_named_splits_alone_unless_asked():
    named = {"train": NAMES, "test": ["a", "b"]}
    assert draw(named) == {"train": 200, "test": 2}
    assert draw(named, validation=0.3) == {"train": 140, "test": 2, "validation": 60}
    assert draw({"night": NAMES}) == {"night": 200}


def test_draw_splits_keeps_in_training_what_stays_there():
    drawn = draw_splits(
        {"": "abcd"}, validation=0.9, test=0, seed=0, stays_in_train="cd"
    )
    assert set("cd") < set(drawn["train"])
    assert len(drawn["validation"]) == 1


def test_draw_splits_refuses_shares_that_contradict():
    with pytest.raises(ValueError, match="--test=0.1 asks to draw a split that has"):
        draw({"train": NAMES, "test": "ab"}, test=0.1)
    with pytest.raises(ValueError, match="--validation=0.1 is drawn from train, and"):
        draw({"night": NAMES}, validation=0.1)
    for share in (1, -0.1, 20, "a tenth"):
        with pytest.raises(ValueError, match=f"--test={share} is no share"):
            draw({"": NAMES}, test=share)


def test_check_disjoint_names_the_two_splits_and_what_they_share():
    with pytest.raises(ValueError, match="train and test share 2: b, c"):
        splits.check_disjoint({"train": "abc", "validation": "d", "test": "bce"})
