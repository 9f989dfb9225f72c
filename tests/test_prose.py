""".ci/prose finds fragments and old-fashioned words, and no whole sentences."""

import importlib.machinery
import importlib.util
import pathlib

import pytest

SCRIPT = pathlib.Path(__file__).parent.parent / ".ci" / "prose"


@pytest.fixture(scope="module")
def prose():
    """Returns the script as a module."""
    loader = importlib.machinery.SourceFileLoader("prose", str(SCRIPT))
    spec = importlib.util.spec_from_loader("prose", loader)
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    "text",
    [
        "Of what was standardised, from the gradient of the result.",
        "What XLA doesn't look through; export knows it, other than a barrier.",
        "As JAX has them.",
        "That of `apply_sharded`, while it traces.",
        "The same by a product of matrices.",
        "Where a window begins: evenly overlapping, the last one ends with the image.",
        "Whether the tensors are differences.",
    ],
)
def test_fragments_are_found(prose, text):
    assert prose.is_fragment(text, is_docstring=True)
    assert prose.is_fragment(text, is_docstring=False)


@pytest.mark.parametrize(
    "text",
    [
        "Which one is meant?",
        "As JAX has them, they stay.",
        "Where segments don't overlap, a batch carries one id map.",
        "That is why it is here.",
        "The same command has nothing to do.",
        "Of several copies, the average is taken.",
        "By default the canvas is square.",
        "Shapes of an EoMT's parameters.",
    ],
)
def test_sentences_and_questions_are_not_found(prose, text):
    assert not prose.is_fragment(text, is_docstring=True)


@pytest.mark.parametrize(
    ("text", "begins"),
    [
        ("Returns rows of the batch.", True),
        ("Masks everything outside.", True),
        ("Masks of all queries.", False),
        ("Rows of the batch.", False),
        ("The rows of the batch.", False),
        ("[H, W] of bools.", False),
    ],
)
def test_docstrings_of_functions_begin_with_a_verb(prose, text, begins):
    assert prose.begins_with_verb(text) is begins


def test_findings_name_functions_without_a_verb_but_no_properties(prose, tmp_path):
    path = tmp_path / "example.py"
    path.write_text(
        'class A:\n    """Rows."""\n    def __init__(self):\n        """Args: none."""\n'
        '    @property\n    def size(self):\n        """The size."""\n'
        '    def rows(self):\n        """The rows."""\n'
        'def test_rows():\n    """There are none."""\n'
    )
    assert list(prose.findings(path)) == [f"{path}:9: fragment: The rows."]


def test_findings_name_the_line(prose, tmp_path):
    path = tmp_path / "example.py"
    path.write_text('def f():\n    """With padding."""\n    # With padding, told.\n')
    assert list(prose.findings(path)) == [
        f"{path}:2: fragment: With padding.",
        f"{path}:3: old-fashioned: told",
    ]
