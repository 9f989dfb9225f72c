"""eomt-compare shows trainings side by side: recipes, scores, speed and curves."""

import argparse
import sys
from collections.abc import Sequence

from etils import epath

from eomt_jax.cli.standard_output import accept_any_name
from eomt_jax.pictures.comparison import write_picture
from eomt_jax.training.reporting import compared_runs


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the comparison and draws the curves; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="eomt-compare",
        description="Prints the fields by which the recipes of trainings differ, their "
        "scores and speed, and draws their losses and scores into one picture.",
    )
    parser.add_argument("runs", nargs="+", help="work directories of trainings")
    parser.add_argument(
        "--out",
        default="comparison.png",
        help="picture to write, over an older one; default: comparison.png",
    )
    options = parser.parse_args(arguments)
    accept_any_name()
    try:
        out = epath.Path(options.out).expanduser()
        _check(options.runs, out)
        runs = [compared_runs.read_run(folder) for folder in options.runs]
        print(compared_runs.describe(runs))
        picture = compared_runs.draw(runs)
        if picture is not None:
            write_picture(out, picture)
            print(f"\nCurves: {out}")
    except (ValueError, OSError) as error:
        print(f"eomt-compare: {error}", file=sys.stderr)
        return 1
    return 0


def _check(folders: Sequence[str], out: epath.Path) -> None:
    names = [folder.rstrip("/") for folder in folders]
    if not 2 <= len(set(names)) == len(names) <= compared_runs.MAX_RUNS:
        raise ValueError(
            f"give 2 to {compared_runs.MAX_RUNS} different runs, which are as many as "
            "colours can tell apart"
        )
    if out.suffix != ".png":
        raise ValueError(f"--out={out} must end in .png")


if __name__ == "__main__":
    sys.exit(main())
