"""Packages of the library import only packages below them."""

import ast
import pathlib
import re

ROOT = pathlib.Path(__file__).parent.parent

# Packages of the library, each with the packages below it that it may import.
ALLOWED = {
    "cli": {"*"},
    "benchmark": {"*"},
    "own_data": {
        "datasets",
        "evaluation",
        "models",
        "parallel",
        "pictures",
        "pipeline",
        "predict",
        "training",
        "weights",
    },
    "training": {
        "dataset_info",
        "evaluation",
        "losses",
        "models",
        "ops",
        "parallel",
        "pictures",
        "pipeline",
        "predict",
        "weights",
    },
    "datasets": {
        "dataset_info",
        "parallel",
        "pictures",
        "pipeline",
        "postprocess",
        "predict",
    },
    "tasks": {"evaluation", "models", "pictures", "pipeline", "postprocess", "predict"},
    "evaluation": {
        "models",
        "ops",
        "parallel",
        "pictures",
        "pipeline",
        "postprocess",
        "predict",
        "weights",
    },
    "predict": {
        "dataset_info",
        "models",
        "ops",
        "parallel",
        "pictures",
        "pipeline",
        "postprocess",
        "weights",
    },
    "pictures": {"pipeline", "postprocess"},
    "postprocess": {"models", "ops", "pipeline"},
    "weights": {"dataset_info", "models", "ops"},
    "pipeline": {"dataset_info", "ops"},
    "models": {"ops", "parallel"},
    "losses": {"ops"},
    "dataset_info": set(),
    "parallel": set(),
    "ops": set(),
}
RECIPES = {"configs", "train", "eval", "tests"}


def imported_modules(path: pathlib.Path) -> set[str]:
    """Returns the absolute names of a file's imports, also inside functions."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def library_files():
    return sorted((ROOT / "eomt_jax").rglob("*.py"))


def test_library_never_imports_a_recipe():
    for path in library_files():
        roots = {name.split(".")[0] for name in imported_modules(path)}
        assert not roots & RECIPES, f"{path} imports {roots & RECIPES}"


def test_arrows_inside_the_library_point_down():
    for path in library_files():
        parts = path.relative_to(ROOT / "eomt_jax").parts
        if len(parts) == 1:
            continue
        package = parts[0]
        allowed = ALLOWED[package] | {package}
        for name in imported_modules(path):
            if not name.startswith("eomt_jax."):
                continue
            target = name.split(".")[1]
            if target in ALLOWED and "*" not in allowed:
                assert target in allowed, f"{path} imports {name}"


def test_only_models_weights_and_tools_name_a_network_or_its_parameters():
    name = re.compile(r"EoMT\b|\bvit/|\.vit\b|\"vit\"|block_\d|block_\{|\"block_")
    for package in (
        "training",
        "parallel",
        "evaluation",
        "predict",
        "postprocess",
        "pictures",
        "pipeline",
        "losses",
    ):
        for path in (ROOT / "eomt_jax" / package).rglob("*.py"):
            found = name.search(path.read_text())
            assert not found, f"{path} names {found}"


def test_allowed_imports_have_no_cycle():
    order = list(ALLOWED)
    for package, below in ALLOWED.items():
        for target in below - {"*"}:
            assert order.index(target) > order.index(package), (package, target)


def test_nothing_changes_the_path_of_imports():
    for path in [*library_files(), *ROOT.glob("*.py"), *(ROOT / "data").glob("*.py")]:
        assert "sys.path" not in path.read_text(), path


def test_base_install_needs_neither_tensorflow_nor_torch():
    """torch may be imported inside functions only, tensorflow nowhere."""
    for path in [*library_files(), *(ROOT / "data").glob("*.py")]:
        tree = ast.parse(path.read_text())
        for node in tree.body:
            if isinstance(node, ast.Import):
                names = {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                names = {(node.module or "").split(".")[0]}
            else:
                continue
            forbidden = {"tensorflow", "torch", "transformers", "tensorboard"}
            assert not names & forbidden, f"{path} imports {names & forbidden}"
        assert "tensorflow" not in {n.split(".")[0] for n in imported_modules(path)}
