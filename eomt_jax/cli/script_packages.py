"""Imports a package of a clone where Python doesn't look for it."""

import importlib.util
import os
import sys
from importlib.machinery import PathFinder


def load_package(name: str, above: os.PathLike[str]) -> None:
    """Imports the package `name` that lies in the folder `above`, if there is one.

    A script's own folder is in Python's path and not the one above it, and an installed
    command has neither the caller's folder nor the clone's. Python's path stays as it
    is, so nothing else of the folder can hide an installed module.
    """
    spec = PathFinder.find_spec(name, [os.fspath(above)])
    if spec is None:
        return
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    if spec.loader is not None:
        spec.loader.exec_module(module)
