"""Scores a trained model: PQ, SQ and RQ of all classes, things, stuff, and each class.

python eval.py --config=configs/quickstart.py --workdir=runs/quickstart

Prints a table and writes it as JSON. The network runs without masked attention.
"""

import sys
import time

from absl import app, flags, logging
from etils import epath

from data import prepare
from eomt_jax.cli import config_flag

_CONFIG = config_flag.define_config_flag()
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder of a training; its newest checkpoint is scored."
)
_CHECKPOINT = flags.DEFINE_string(
    "checkpoint", None, "Instead: a checkpoint folder, or one step of a training's."
)
_SPLIT = flags.DEFINE_string("split", None, "Instead of config.dataset.eval_split.")
_OUT = flags.DEFINE_string(
    "out", None, "The JSON file; by default evaluation_SPLIT_STEP.json in the folder."
)
flags.mark_flag_as_required("config")
flags.mark_flags_as_mutual_exclusive(["workdir", "checkpoint"], required=True)


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unknown arguments {argv[1:]}; a flag begins with --")
    # After the flags, so that --help and misspelt fields answer at once.
    from eomt_jax.evaluation import checkpoint, evaluator
    from eomt_jax.parallel import processes

    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.WARNING)
    processes.initialize()
    config = _CONFIG.value
    prepare.ensure(config.dataset.name, config.dataset.data_dir)
    folder = epath.Path(_WORKDIR.value or _CHECKPOINT.value).expanduser()
    results = checkpoint.evaluate_checkpoint(
        config, folder, split=_SPLIT.value or "", progress=Progress()
    )
    if not processes.is_main():
        return
    print(evaluator.format_table(results), flush=True)
    name = f"evaluation_{results['split']}_{results['step']}.json"
    out = epath.Path(_OUT.value).expanduser() if _OUT.value else folder / name
    evaluator.write_results(results, out)
    print(f"written to {out}")


class Progress:
    """A live line on a terminal; elsewhere a line now and then."""

    def __init__(self):
        self._live = sys.stderr.isatty()
        self._next = 0.0

    def __call__(self, done: int, total: int, speed: float) -> None:
        if not self._live and time.monotonic() < self._next and done < total:
            return
        self._next = time.monotonic() + 30
        line = f"{done}/{total} images" + (f", {speed:.1f} a second" if speed else "")
        end = "\n" if done >= total or not self._live else "  \r"
        print(line, end=end, file=sys.stderr, flush=True)


if __name__ == "__main__":
    app.run(main, flags_parser=config_flag.parse_flags)
