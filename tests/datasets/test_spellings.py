"""Names are matched that differ in spelling, or by an addition to all of them."""

import unicodedata

import pytest

from eomt_jax.datasets.spellings import (
    by_spelling,
    common_addition,
    last_part,
    match_names,
    plain,
)

COMPOSED = "é ü 0001.jpg"
DECOMPOSED = unicodedata.normalize("NFD", COMPOSED)


def test_plain_is_one_for_all_spellings():
    assert COMPOSED != DECOMPOSED
    assert plain(COMPOSED) == plain(DECOMPOSED)
    assert plain("Images\\IMG_1.JPG") == plain("images/img_1.jpg") == "images/img_1.jpg"


def test_last_part_knows_both_separators():
    assert [last_part(n) for n in ("a\\b/c.jpg", "a/b\\c.jpg", "c.jpg")] == [
        "c.jpg"
    ] * 3


def test_by_spelling_knows_no_single_name_of_two():
    assert by_spelling(["A", "b", "a"]) == {"a": None, "b": "b"}


@pytest.mark.parametrize(
    ("wanted", "names", "expected"),
    [
        (["1", "2"], ["1", "2"], {"1": "1", "2": "2"}),
        (["IMG_1"], ["img_1"], {"img_1": "IMG_1"}),
        (["1", "11"], ["1_mask", "11_mask"], {"1_mask": "1", "11_mask": "11"}),
        (["a/1", "b/1"], ["a/m1", "b/m1"], {"a/m1": "a/1", "b/m1": "b/1"}),
        # A photograph has no mask, and a mask no photograph.
        (["1", "2", "3"], ["1_gt", "2_gt", "9_gt"], {"1_gt": "1", "2_gt": "2"}),
        # Exact names need no guess.
        (["1", "2"], ["1", "2_mask"], {"1": "1"}),
        # There are masks of two kinds, so none is taken.
        (["1", "2"], ["1_a", "1_b", "2_a", "2_b"], {}),
        (["cat"], ["dog"], {}),
    ],
)
def test_match_names(wanted, names, expected):
    assert match_names(wanted, names) == expected


def test_common_addition_is_what_most_names_share():
    assert common_addition(["1", "2", "3"], ["x1-y", "x2-y", "3"]) == ("x", "-y")
    assert common_addition(["1", "2", "3"], ["1-y", "2", "3"]) == ("", "")
