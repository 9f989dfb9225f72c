"""Class tables of the published datasets, in label order.

Read by the builders, and by whoever wants names and colours without a prepared
dataset. A class's position in its table is its label.
"""

import json
from importlib import resources

from eomt_jax.types import ClassInfo


def available() -> tuple[str, ...]:
    """Names of the datasets whose class tables are here."""
    files = resources.files(__name__).iterdir()
    return tuple(sorted(f.name[:-5] for f in files if f.name.endswith(".json")))


def load_classes(name: str) -> tuple[ClassInfo, ...]:
    """Class table of the published dataset `name`; ValueError for an unknown one."""
    if name not in available():
        raise ValueError(
            f"no class table of dataset {name!r}; there is {', '.join(available())}"
        )
    table = (resources.files(__name__) / f"{name}.json").read_text(encoding="utf-8")
    return tuple(
        ClassInfo(**{**row, "color": tuple(row["color"])}) for row in json.loads(table)
    )
