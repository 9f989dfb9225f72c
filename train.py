"""Trains an EoMT; the same command, run again, continues a stopped training.

python train.py --config=configs/quickstart.py --workdir=runs/quickstart
"""

from absl import app, flags

from eomt_jax.cli import config_flag, process_flags
from eomt_jax.datasets import prepare

_CONFIG = config_flag.define_config_flag()
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run, made if missing.")
_DRY_RUN = flags.DEFINE_bool(
    "dry_run", False, "Print what would be trained and what it needs, and stop."
)
_MEASURE = flags.DEFINE_bool(
    "measure", True, "In a dry run, run a step or two to measure time and memory."
)
process_flags.define_process_flags()
flags.mark_flags_as_required(["config", "workdir"])


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unknown arguments {argv[1:]}; a flag begins with --")
    with process_flags.joined(saves_on_sigterm=not _DRY_RUN.value):
        # These are imported here so that misspelt flags are answered sooner.
        from eomt_jax.options import from_config
        from eomt_jax.training import loop
        from eomt_jax.training.options import RunOptions
        from eomt_jax.training.reporting import dry_run

        config = _CONFIG.value
        from_config(RunOptions, config)  # raises
        prepare.ensure(config.dataset.name, config.dataset.data_dir)
        if _DRY_RUN.value:
            dry_run.dry_run(config, _WORKDIR.value, measure=_MEASURE.value)
        else:
            loop.train(config, _WORKDIR.value)


if __name__ == "__main__":
    app.run(main, flags_parser=config_flag.parse_flags)
