import pytest

from tests.configs import golden


def test_every_golden_text_has_its_recipe():
    assert sorted(p.stem for p in golden.FOLDER.glob("*.txt")) == golden.RECIPES


@pytest.mark.parametrize("name", golden.RECIPES)
def test_recipe_resolves_as_written_down(name):
    """If a change is wanted, python -m tests.configs.golden writes the texts anew."""
    assert golden.resolved_text(name) == (golden.FOLDER / f"{name}.txt").read_text()
