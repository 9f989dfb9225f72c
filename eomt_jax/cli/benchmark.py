"""eomt-benchmark measures the memory and the time that a config takes.

eomt-benchmark --config=configs/coco_panoptic_vits_640_2x.py --measure=inference
eomt-benchmark --config=configs/coco_panoptic_vitl_640.py --compile-for=v5e:4x4

The first command times on this machine's devices what --measure names: inference,
train_step, input_pipeline (samples a second of one core) or evaluation (from
photographs on disk to PQ). With --against=transformers PyTorch does the same work, and
they take turns. With --ladder instead, all steps from ViT-Adapter + Mask2Former down to
EoMT are timed side by side. The second command compiles training and evaluation for a TPU slice
that need not be present, and prints how much memory and at least how much time they
take on a chip.
"""

import json
import os
import pathlib
import sys
from typing import Any

from absl import app, flags, logging

from eomt_jax.cli import config_flag
from eomt_jax.cli.script_packages import load_package

_CONFIG = config_flag.define_config_flag()
_COMPILE_FOR = flags.DEFINE_string(
    "compile_for", None, "A TPU slice that need not be present, such as v5e:4x4."
)
_PROGRAMS = flags.DEFINE_list(
    "programs", ["train", "eval"], "Programs to compile: train, eval or both."
)
_MEASURE = flags.DEFINE_list(
    "measure", [], "What to time: inference, train_step, input_pipeline, evaluation."
)
_BATCH_SIZES = flags.DEFINE_list("batch_sizes", ["1", "8"], "Batches of inference.")
_IMAGES = flags.DEFINE_integer(
    "images", 16, "Images evaluated in a round, the first of the validation split."
)
_ROUNDS = flags.DEFINE_integer(
    "rounds", 10, "Rounds, in each of which all that is compared takes a turn."
)
_AGAINST = flags.DEFINE_enum(
    "against", "", ["", "transformers"], "Times PyTorch's EoMT in the same rounds."
)
_MODES = flags.DEFINE_list(
    "torch_modes",
    ["eager", "compiled"],
    "Modes of PyTorch's network: eager, compiled, max-autotune.",
)
_THREADS = flags.DEFINE_integer(
    "torch_threads", 0, "Threads of torch on a CPU; 0 takes as many as JAX."
)
_LADDER = flags.DEFINE_bool(
    "ladder",
    False,
    "Times inference of all steps from ViT-Adapter + Mask2Former down to the config's "
    "EoMT, side by side.",
)
_OUT = flags.DEFINE_string("out", "", "JSON file to which the numbers are written.")
flags.mark_flag_as_required("config")

_MEASURES = ("inference", "train_step", "input_pipeline", "evaluation")


def main() -> None:
    """Runs the command."""
    # Recipes import one another from the folder that the command is called in.
    load_package("configs", above=pathlib.Path.cwd())
    # absl's flags have underscores.
    arguments = [
        argument.replace("--compile-for", "--compile_for", 1) for argument in sys.argv
    ]
    app.run(_run, argv=arguments, flags_parser=config_flag.parse_flags)


def _run(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unknown arguments {argv[1:]}; a flag begins with --")
    if sum(map(bool, (_COMPILE_FOR.value, _MEASURE.value, _LADDER.value))) != 1:
        raise app.UsageError(
            f"give one of --measure={','.join(_MEASURES)}, --compile-for and --ladder"
        )
    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.WARNING)
    for note in _without_effect():
        print(f"note: {note}", file=sys.stderr)
    try:
        fits, report = _compile() if _COMPILE_FOR.value else _measure()
    except (ValueError, ImportError, OSError) as error:
        sys.exit(f"error: {error}")
    if _OUT.value:
        from etils import epath

        path = epath.Path(_OUT.value).expanduser()
        path.write_text(json.dumps(report, indent=2) + "\n")
        print(f"written to {path}")
    if not fits:
        sys.exit(1)


def _without_effect() -> list[str]:
    """Returns a sentence for each flag that is given and changes nothing."""
    measured = set(_MEASURE.value)
    compared = bool(measured and _AGAINST.value)
    needed = {
        "programs": ("--compile-for", bool(_COMPILE_FOR.value)),
        "batch_sizes": (
            "--measure=inference or --ladder",
            "inference" in measured or _LADDER.value,
        ),
        "images": ("--measure=evaluation", "evaluation" in measured),
        "rounds": ("--measure or --ladder", measured or _LADDER.value),
        "against": ("--measure", measured),
        "torch_modes": ("--against", compared),
        "torch_threads": ("--against", compared),
    }
    return [
        f"--{name} has no effect without {flag}"
        for name, (flag, is_given) in needed.items()
        if flags.FLAGS[name].present and not is_given
    ]


def _compile() -> tuple[bool, dict[str, Any]]:
    unknown = set(_PROGRAMS.value) - {"train", "eval"}
    if unknown or not _PROGRAMS.value:
        raise app.UsageError(f"--programs takes train and eval, not {sorted(unknown)}")
    import jax

    # JAX doesn't look for the devices of other platforms.
    jax.config.update("jax_platforms", "cpu")
    from eomt_jax.benchmark import ahead_of_time, compile_report
    from eomt_jax.benchmark.target import open_target

    target = open_target(_COMPILE_FOR.value or "")
    run, programs = ahead_of_time.compile_config(
        _CONFIG.value, target, programs=tuple(_PROGRAMS.value)
    )
    print(compile_report.format_report(run, target, programs))
    fits = all(program.fits for program in programs)
    return fits, compile_report.as_json(run, target, programs)


def _measure() -> tuple[bool, dict[str, Any]]:
    unknown = set(_MEASURE.value) - set(_MEASURES)
    if unknown:
        raise app.UsageError(
            f"--measure takes {', '.join(_MEASURES)}, not {sorted(unknown)}"
        )
    if not all(size.isdigit() and int(size) for size in _BATCH_SIZES.value):
        raise app.UsageError(
            f"--batch_sizes={_BATCH_SIZES.value}: these must be numbers from 1"
        )
    if _ROUNDS.value < 1:
        raise app.UsageError(f"--rounds={_ROUNDS.value}: it must be at least 1")
    if _IMAGES.value < 1:
        raise app.UsageError(f"--images={_IMAGES.value}: it must be at least 1")
    # JAX must leave some of a GPU's memory to torch.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    from eomt_jax.benchmark import machine, measure
    from eomt_jax.parallel.host_memory import keep_freed_memory

    keep_freed_memory()
    compared = machine.describe(
        torch_threads=_THREADS.value, with_torch=bool(_AGAINST.value)
    )
    print(machine.format_description(compared))
    if _LADDER.value:
        return True, {"machine": compared, "ladder": _measure_ladder()}
    report = measure.measure(
        _CONFIG.value,
        what=tuple(_MEASURE.value),
        batch_sizes=[int(size) for size in _BATCH_SIZES.value],
        rounds=_ROUNDS.value,
        num_images=_IMAGES.value,
        torch_modes=tuple(_MODES.value) if _AGAINST.value else (),
    )
    return True, {"machine": compared, **report}


def _measure_ladder() -> list[dict[str, Any]]:
    from eomt_jax.benchmark import ladder
    from eomt_jax.benchmark.blank_split import open_or_blank
    from eomt_jax.options import from_config
    from eomt_jax.training.options import RunOptions

    options = from_config(RunOptions, _CONFIG.value)
    if options.model.name != "eomt" or options.model.inference == "masked":
        raise ValueError(
            "--ladder makes all steps of a recipe of EoMT: give the last one, such as "
            "--config=configs/ladder.py:5_large"
        )
    info = open_or_blank(options.dataset, options.dataset.train_split).info
    results = []
    for batch_size in map(int, _BATCH_SIZES.value):
        steps = ladder.measure(
            options.model,
            num_classes=info.num_classes,
            image_size=(options.image_size, options.image_size),
            batch_size=batch_size,
            rounds=_ROUNDS.value,
        )
        print(f"batch {batch_size}\n{ladder.format_results(steps)}", flush=True)
        results += ladder.as_json(steps)
    return results


if __name__ == "__main__":
    main()
