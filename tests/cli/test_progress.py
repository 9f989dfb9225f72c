from eomt_jax.cli.progress import Progress


def test_progress_in_a_file_tells_the_beginning_and_the_end(capsys):
    progress = Progress()
    for done in (8, 16, 24):
        progress(done, 24, 0.0 if done == 8 else 2.5)
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["8/24 images", "24/24 images, 2.5 a second"]


def test_progress_on_a_terminal_rewrites_its_line(capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    progress = Progress()
    for done in (8, 16):
        progress(done, 16, 2.0)
    text = capsys.readouterr().err
    assert text == "8/16 images, 2.0 a second  \r16/16 images, 2.0 a second\n"
