import numpy as np
import pytest

from eomt_jax.pictures.confusion import draw_confusion

WHITE, LIGHT, DARK = (255, 255, 255), (247, 249, 252), (8, 38, 92)


def draw(confusion, name="a class"):
    names = [f"{name} {k}" for k in range(len(confusion))]
    return draw_confusion(confusion, names, title="fake")


def find_cells(picture):
    """Returns the matrix's top left corner, and how many lines it has each way."""
    line = (picture == (226, 229, 234)).all(-1)
    rows = np.flatnonzero(line.sum(1) > 0.9 * line.sum(1).max())
    columns = np.flatnonzero(line.sum(0) > 0.9 * line.sum(0).max())
    return rows, columns


def test_draw_confusion_colours_are_shares_of_rows():
    confusion = np.zeros((4, 4), np.int64)
    confusion[0, 0] = 7
    confusion[1, [0, 1]] = 30, 90
    confusion[3, 1] = 10**12
    picture = draw(confusion)
    rows, columns = find_cells(picture)
    assert len(rows) == len(columns) == 4, "class 2 is neither there nor predicted"
    cells = picture[rows[:3, None] + 4, columns[:3] + 4]
    np.testing.assert_array_equal(cells[0], [DARK, LIGHT, LIGHT])
    np.testing.assert_array_equal(cells[2], [LIGHT, DARK, LIGHT])
    # A share of ¼ has the colour in the middle, since the scale shows the square root.
    np.testing.assert_array_equal(cells[1, 0], (96, 160, 204))
    assert (picture[0, 0] == WHITE).all()


def test_draw_confusion_class_only_predicted_has_an_empty_row():
    confusion = np.array([[3, 1], [0, 0]])
    picture = draw(confusion)
    rows, columns = find_cells(picture)
    empty = picture[rows[1] + 1 : rows[2], columns[0] + 1 : columns[1]]
    assert (empty == LIGHT).all()


def test_draw_confusion_writes_percentages():
    picture = draw(np.array([[3, 0], [0, 3]]))
    rows, columns = find_cells(picture)
    cell = picture[rows[0] + 1 : rows[1], columns[0] + 1 : columns[1]]
    assert (cell == WHITE).all(-1).sum() > 20


def test_draw_confusion_many_classes_have_room_for_names_on_all_sides():
    confusion = np.eye(150, dtype=np.int64)
    picture = draw(confusion, name="a rather long name")
    rows, columns = find_cells(picture)
    assert len(rows) == len(columns) == 151
    assert np.diff(rows).min() >= 15
    dark = (picture < 128).all(-1)
    right = dark[rows[0] : rows[-1], columns[-1] + 4 : columns[-1] + 100]
    below = dark[rows[-1] + 4 : rows[-1] + 100, columns[0] : columns[-1]]
    for k in range(150):
        name = slice(15 * k, 15 * k + 15)
        assert right[name].any() and below[:, name].any()


def test_draw_confusion_with_other_names_is_refused():
    with pytest.raises(ValueError, match=r"\(3, 3\).*4 names"):
        draw_confusion(np.eye(3, dtype=np.int64), list("abcd"), title="fake")


def test_draw_confusion_of_nothing_is_refused():
    with pytest.raises(ValueError, match="no pixel"):
        draw(np.zeros((4, 4), np.int64))
