"""JSON files are all read in one place, and every error names the file."""

import os

import pytest

from eomt_jax import json_files
from eomt_jax.regular_files import MAX_JSON, check_folder


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 200_000, "is no JSON: it is nested too deeply"),
        ('{"a":' * 200_000, "is no JSON: it is nested too deeply"),
        ("9" * 5000, "is no JSON: Exceeds the limit"),
        ("\xff", "is no JSON: .*decode"),
        ("[]", "holds a list; wanted an object"),
    ],
)
def test_read_object_of_something_else_names_the_file(tmp_path, text, message):
    path = tmp_path / "a.json"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(ValueError, match=rf"a\.json {message}"):
        json_files.read_object(path)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_read_object_in_any_encoding_of_json(tmp_path, encoding):
    path = tmp_path / "a.json"
    path.write_text('{"name": "Straße"}', encoding=encoding)
    assert json_files.read_object(path) == {"name": "Straße"}


def test_read_object_of_a_large_or_missing_file_names_it(tmp_path):
    path = tmp_path / "a.json"
    with pytest.raises(ValueError, match=r"a\.json cannot be read: .*No such file"):
        json_files.read_object(path)
    path.write_text("{}")
    os.truncate(path, MAX_JSON + 1)
    with pytest.raises(ValueError, match=r"a\.json has 0\.3 GB"):
        json_files.read_object(path)


def test_check_folder_finds_a_pipe_below_it(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "file").write_text("fine")
    check_folder(tmp_path)
    os.mkfifo(tmp_path / "a" / "b" / "c")
    with pytest.raises(ValueError, match="a/b/c is a named pipe"):
        check_folder(tmp_path)
