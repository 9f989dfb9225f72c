"""Settings of the documentation site: sphinx-build -W docs build/site."""

import pathlib
import posixpath
import re

project = "eomt_jax"
author = "The authors of eomt_jax"

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinxcontrib.programoutput",
]
exclude_patterns = ["gpus/*", "tpu_slices/*"]

# A single backquote in a docstring is code.
default_role = "code"

html_theme = "furo"
html_title = "eomt_jax"

# Headings of all pages can be linked to, as on GitHub.
myst_heading_anchors = 3
# Notebooks are executed when the site is built, and a failing cell ends the build.
nb_execution_mode = "force"
nb_execution_in_temp = True
nb_execution_raise_on_error = True
nb_execution_timeout = 900

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
add_module_names = False
python_use_unqualified_type_names = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False

# Files outside of docs/ that are shown at the top of a page.
_PAGES = {
    "README.md": "index",
    "data/README.md": "datasets",
    "CONTRIBUTING.md": "contributing",
    "CHANGELOG.md": "changelog",
}


def _read_page(app, page, content):
    """Puts the file of _PAGES above a page's own text, and makes its links fit."""
    del app
    text = _move_links(content[0], "docs")
    for file, of_page in _PAGES.items():
        if page == of_page:
            above = (pathlib.Path(__file__).parent.parent / file).read_text()
            text = _move_links(above, posixpath.dirname(file)) + text
    content[0] = text


def _move_links(text, folder):
    """Returns text of a file in `folder` with links that lead from docs/."""

    def move(link):
        path, mark, heading = link[1].partition("#")
        if "://" in path or not path:
            return link[0]
        file = posixpath.normpath(posixpath.join(folder, path))
        moved = f"{_PAGES[file]}.md" if file in _PAGES else f"../{file}"
        return f"]({moved.removeprefix('../docs/')}{mark}{heading})"

    return re.sub(r"\]\(([^)\s]+)\)", move, text)


def _escape_shapes(app, what, name, of, options, lines):
    """Keeps the stars in shapes, as in "B *windows S S 3", from being emphasis."""
    del app, what, name, of, options
    lines[:] = [
        line.replace("*", r"\*") if ":type:" in line else line for line in lines
    ]


def setup(app):
    app.connect("autodoc-process-docstring", _escape_shapes, priority=900)
    app.connect("source-read", _read_page)
