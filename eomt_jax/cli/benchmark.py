"""eomt-benchmark: what a config takes, of memory and time.

eomt-benchmark --compile-for=v5e:4x4 --config=configs/coco_panoptic_vitl_640.py

Compiles the training step and the evaluation for that TPU slice on any machine, without
a TPU, and says per chip how much memory they take and how long they take at least.
"""

import json
import os
import sys

from absl import app, flags, logging

from eomt_jax.cli import config_flag

_CONFIG = config_flag.define_config_flag()
_COMPILE_FOR = flags.DEFINE_string(
    "compile_for", None, "A TPU slice that needn't be here, such as v5e:4x4."
)
_PROGRAMS = flags.DEFINE_list(
    "programs", ["train", "eval"], "Which of the two to compile."
)
_OUT = flags.DEFINE_string("out", "", "JSON file for the numbers as well.")
flags.mark_flags_as_required(["config", "compile_for"])


def main() -> None:
    """The command."""
    # Recipes import one another from the folder that the command is called in.
    sys.path.insert(0, os.getcwd())
    # absl spells flags with underscores.
    arguments = [
        argument.replace("--compile-for", "--compile_for", 1) for argument in sys.argv
    ]
    app.run(_run, argv=arguments, flags_parser=config_flag.parse_flags)


def _run(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unknown arguments {argv[1:]}; a flag begins with --")
    unknown = set(_PROGRAMS.value) - {"train", "eval"}
    if unknown or not _PROGRAMS.value:
        raise app.UsageError(f"--programs takes train and eval, not {sorted(unknown)}")
    # Before jax is imported: what compiles for a TPU must not look for one.
    os.environ["JAX_PLATFORMS"] = "cpu"
    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.WARNING)
    from etils import epath

    from eomt_jax.benchmark import tpu_compile, tpu_report, tpu_topology

    try:
        slice_ = tpu_topology.open_slice(_COMPILE_FOR.value or "")
        run, programs = tpu_compile.compile_config(
            _CONFIG.value, slice_, programs=tuple(_PROGRAMS.value)
        )
    except (ValueError, FileNotFoundError) as error:
        sys.exit(f"error: {error}")
    print(tpu_report.format_report(run, slice_, programs))
    if _OUT.value:
        report = tpu_report.as_json(run, slice_, programs)
        path = epath.Path(_OUT.value).expanduser()
        path.write_text(json.dumps(report, indent=2) + "\n")
        print(f"written to {path}")
    if not all(program.fits for program in programs):
        sys.exit(1)


if __name__ == "__main__":
    main()
