"""Scores a trained model: panoptic quality, mean IoU or average precision.

python eval.py --workdir=runs/quickstart

Image size, dtype, dataset and split are the training's own unless a flag says otherwise.
Prints a table and writes it as JSON. The network runs without masked attention.
"""

import functools
import pathlib

from absl import app, flags

from data import prepare
from eomt_jax.cli import config_flag, process_flags
from eomt_jax.cli.progress import Progress

# A training says itself what a recipe would; --checkpoint may need one.
_COMMON = pathlib.Path(__file__).parent / "configs" / "common.py"
_CONFIG = config_flag.define_config_flag()
_WORKDIR = flags.DEFINE_string(
    "workdir",
    None,
    "Folder of a training, of which the best or else the newest is scored.",
)
_CHECKPOINT = flags.DEFINE_string(
    "checkpoint", None, "Instead: any EoMT; file, folder, step, or name on the hub."
)
_BACKBONE = flags.DEFINE_string(
    "backbone", "", "What a checkpoint with DINOv3 holds differences to."
)
_SPLIT = flags.DEFINE_string("split", "", "Instead of config.dataset.eval_split.")
_TASK = flags.DEFINE_string(
    "task", "", "panoptic, instance or semantic, instead of config.eval.task."
)
_OUT = flags.DEFINE_string(
    "out",
    "",
    "The JSON file; evaluation_DATASET_SPLIT_STEP.json in the folder by default.",
)
_PICTURES = flags.DEFINE_integer(
    "pictures", 0, "Draw so many of the first images, into a folder beside the JSON."
)
_PREDICTIONS = flags.DEFINE_string(
    "predictions", "", "New folder for all predictions, as benchmarks take them."
)
process_flags.define_process_flags()
flags.mark_flags_as_mutual_exclusive(["workdir", "checkpoint"], required=True)


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unknown arguments {argv[1:]}; a flag begins with --")
    with process_flags.joined(saves_on_sigterm=False):
        score()


def score() -> None:
    # After the flags, so that --help and misspelt fields answer at once.
    from eomt_jax.config_ranges import check_config
    from eomt_jax.evaluation import checkpoint, run_config, tables
    from eomt_jax.parallel import processes

    config = _CONFIG.value
    given = config_flag.given_fields()
    if _WORKDIR.value:
        taken = run_config.take_from_run(config, _WORKDIR.value, given=given)
        if taken and processes.is_main():
            print(f"As trained: {', '.join(taken)}.", flush=True)
    check_config(config)
    prepare.ensure(config.dataset.name, config.dataset.data_dir)
    results = checkpoint.evaluate_checkpoint(
        config,
        _WORKDIR.value or _CHECKPOINT.value,
        backbone=_BACKBONE.value,
        split=_SPLIT.value,
        task=_TASK.value,
        out=_OUT.value,
        num_pictures=_PICTURES.value,
        predictions=_PREDICTIONS.value,
        progress=Progress() if processes.is_main() else None,
    )
    if processes.is_main():
        print(tables.format_table(results), flush=True)
        print(f"written to {results['file']}")


if __name__ == "__main__":
    parse_flags = functools.partial(config_flag.parse_flags, default=str(_COMMON))
    app.run(main, flags_parser=parse_flags)
