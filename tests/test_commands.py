"""Commands in the documents name files, flags and fields that exist."""

import importlib
import pathlib
import re
import shlex

import pytest

ROOT = pathlib.Path(__file__).parent.parent
SCRIPTS = ("train.py", "eval.py", "data/prepare.py", "data/preview.py")
DOCUMENTS = [
    path.relative_to(ROOT).as_posix()
    for pattern in ("*.md", "docs/*.md", "data/*.md", "configs/*.py")
    for path in sorted(ROOT.glob(pattern))
]


def commands(text):
    """Returns the argument lists of commands in `text`, also over several lines."""
    text = re.sub(r"\\\n\s*", " ", text)
    for script, rest in re.findall(rf"python ({'|'.join(SCRIPTS)})\b(.*)", text):
        # A sentence may continue after a command in backquotes.
        rest = rest.split("`")[0].split(" && ")[0]
        yield script, shlex.split(rest, comments=True)


def quoted_words(script):
    """Returns the quoted words of a script, which contain its flags."""
    source = (ROOT / script).read_text()
    for module in re.findall(r"(\w+)\.define_process_flags\(\)", source):
        source += (ROOT / f"eomt_jax/cli/{module}.py").read_text()
    words = {"help", *re.findall(r'"(\w+)"', source)}
    return words | ({"config"} if "define_config_flag()" in source else set())


@pytest.mark.parametrize("document", DOCUMENTS)
def test_commands_name_what_there_is(document):
    for script, arguments in commands((ROOT / document).read_text()):
        values = dict(a[2:].split("=", 1) for a in arguments if "=" in a)
        recipe = pathlib.Path(values.get("config", "common.py")).stem
        for argument in arguments:
            if not argument.startswith("--"):
                continue
            name = argument[2:].split("=")[0]
            first, *fields = name.split(".")
            assert first in quoted_words(script), (script, argument)
            if fields:
                field = importlib.import_module(f"configs.{recipe}").get_config()
                for part in fields:
                    assert part in field, (script, argument)
                    field = field[part]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_document_says_whether_its_code_is_run(document):
    text = (ROOT / document).read_text()
    text = re.sub(r"^```\{.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    if document.endswith(".md") and re.search(r"^(```|    [a-z])", text, re.MULTILINE):
        assert re.search(r"<!-- Code blocks: [^>]+-->", text), document


def test_recipes_that_are_named_exist():
    for path in [*map(ROOT.joinpath, DOCUMENTS), *(ROOT / "eomt_jax").rglob("*.py")]:
        for recipe in re.findall(r"\bconfigs/\w+\.py", path.read_text()):
            assert (ROOT / recipe).exists(), f"{path} names {recipe}"
