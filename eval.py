"""Scores a trained model: panoptic quality, mean IoU or average precision.

python eval.py --workdir=runs/quickstart

Image size, dtype, dataset and split are those of the training unless a flag sets them.
The command prints a table and writes it as JSON. The network runs without masked
attention.
"""

import functools
import pathlib

from absl import app, flags

from eomt_jax.cli import config_flag, process_flags
from eomt_jax.cli.progress import Progress
from eomt_jax.datasets import prepare

# The default recipe: a training has its own fields, but --checkpoint may need another.
_COMMON = pathlib.Path(__file__).parent / "configs" / "common.py"
_CONFIG = config_flag.define_config_flag()
_WORKDIR = flags.DEFINE_string(
    "workdir",
    None,
    "Folder of a training, whose best checkpoint, or else the newest, is scored.",
)
_CHECKPOINT = flags.DEFINE_string(
    "checkpoint", None, "Any EoMT instead: a file, folder, step, or name on the hub."
)
_BACKBONE = flags.DEFINE_string(
    "backbone", "", "Backbone of a checkpoint that holds differences to DINOv3."
)
_SPLIT = flags.DEFINE_string("split", "", "Split other than config.dataset.eval_split.")
_TASK = flags.DEFINE_string(
    "task", "", "Task other than config.eval.task: panoptic, instance or semantic."
)
_OUT = flags.DEFINE_string(
    "out",
    "",
    "JSON file; evaluation_DATASET_SPLIT_STEP.json in the folder by default.",
)
_PICTURES = flags.DEFINE_integer(
    "pictures",
    0,
    "How many of the first images to draw, into a folder beside the JSON.",
)
_PREDICTIONS = flags.DEFINE_string(
    "predictions", "", "New folder for all predictions, in the benchmarks' formats."
)
_CONFIDENCE = flags.DEFINE_enum(
    "confidence",
    "",
    ["", "unnormalized", "normalized"],
    "Measure how good the confidence of pixels is too, and write it with predictions.",
)
process_flags.define_process_flags()
flags.mark_flags_as_mutual_exclusive(["workdir", "checkpoint"], required=True)


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unknown arguments {argv[1:]}; a flag begins with --")
    with process_flags.joined(saves_on_sigterm=False):
        score()


def score() -> None:
    # These are imported here so that misspelt flags are answered sooner.
    from eomt_jax.evaluation import run_config, scoring, tables
    from eomt_jax.options import from_config
    from eomt_jax.parallel import processes
    from eomt_jax.training.options import RunOptions

    config = _CONFIG.value
    given = config_flag.given_fields()
    if _WORKDIR.value:
        taken = run_config.take_from_run(config, _WORKDIR.value, given=given)
        if taken and processes.is_main():
            print(f"Taken from the training: {', '.join(taken)}.", flush=True)
    from_config(RunOptions, config)  # raises
    prepare.ensure(config.dataset.name, config.dataset.data_dir)
    results = scoring.evaluate_checkpoint(
        config,
        _WORKDIR.value or _CHECKPOINT.value,
        backbone=_BACKBONE.value,
        split=_SPLIT.value,
        task=_TASK.value,
        out=_OUT.value,
        num_pictures=_PICTURES.value,
        predictions=_PREDICTIONS.value,
        confidence=_CONFIDENCE.value,
        progress=Progress() if processes.is_main() else None,
    )
    if processes.is_main():
        print(tables.format_table(results), flush=True)
        print(f"written to {results['file']}")


if __name__ == "__main__":
    parse_flags = functools.partial(config_flag.parse_flags, default=str(_COMMON))
    app.run(main, flags_parser=parse_flags)
