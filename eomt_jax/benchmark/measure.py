"""Times a config's network, training step, input pipeline and evaluation."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
from ml_collections import ConfigDict

from eomt_jax.benchmark import evaluation, inference, input_pipeline, train_step
from eomt_jax.benchmark.blank_split import open_or_blank
from eomt_jax.options import from_config
from eomt_jax.pipeline.records import open_split
from eomt_jax.training.options import RunOptions
from eomt_jax.training.setup import setup


def measure(
    config: ConfigDict,
    *,
    what: Sequence[str],
    batch_sizes: Sequence[int],
    rounds: int,
    num_images: int = 16,
    torch_modes: Sequence[str] = (),
) -> dict[str, Any]:
    """Prints a table for each measurement as soon as it is made.

    Args:
      config: the recipe, see `setup.setup`.
      what: "inference", "train_step", "input_pipeline", "evaluation".
      batch_sizes: batch sizes of inference.
      rounds: number of rounds, in each of which all that is compared takes a turn.
      num_images: images evaluated in a round, the first of config.dataset.eval_split.
      torch_modes: keys of torch_rival.MODES to compare with; the input pipeline isn't
        compared.

    Returns:
      The numbers, by measurement.

    Raises:
      ValueError: the config contradicts itself; or anything but inference is asked for
        and the dataset isn't prepared.
    """
    report, options = {}, from_config(RunOptions, config)
    if "inference" in what:
        source = open_or_blank(options.dataset, options.dataset.train_split)
        run = setup(config, devices=jax.devices()[:1], source=source)
        model = run.initialization.model
        params = run.create_state().network_params
        rivals = {}
        if torch_modes:
            from eomt_jax.benchmark.torch_rival import Rival

            rival = Rival(model, jax.device_get(params), run.config.criterion)
            rivals = {
                f"PyTorch, {mode}": lambda images, mode=mode: rival.job(images, mode)
                for mode in torch_modes
            }
        results = inference.measure(
            model, params, batch_sizes=batch_sizes, rounds=rounds, rivals=rivals
        )
        print(inference.format_results(results), flush=True)
        report["inference"] = inference.as_json(results)
    if "train_step" in what:
        run = setup(config, devices=jax.devices()[:1])
        result = train_step.measure(run, rounds=rounds, torch_modes=torch_modes)
        print(train_step.format_result(result), flush=True)
        report["train_step"] = train_step.as_json(result)
    if "input_pipeline" in what:
        run = setup(config, devices=jax.devices()[:1])
        result = input_pipeline.measure(
            run.source, run.train_options, rounds=rounds, seed=options.seed
        )
        print(input_pipeline.format_result(result), flush=True)
        report["input_pipeline"] = input_pipeline.as_json(result)
    if "evaluation" in what:
        result = _evaluation(config, num_images, rounds, torch_modes)
        print(evaluation.format_result(result), flush=True)
        report["evaluation"] = evaluation.as_json(result)
    return report


def _evaluation(
    config: ConfigDict, num_images: int, rounds: int, torch_modes: Sequence[str]
) -> evaluation.Evaluation:
    run = setup(config, devices=jax.devices()[:1])
    data = run.config.dataset
    model = run.initialization.model
    source = open_split(data.data_dir, data.name, data.eval_split)
    make_rivals = None
    if torch_modes:
        from eomt_jax.benchmark import torch_evaluation

        make_rivals = functools.partial(
            torch_evaluation.make_rivals,
            model=model,
            criterion=run.config.criterion,
            source=source,
            modes=torch_modes,
        )
    return evaluation.measure(
        model,
        run.create_state().network_params,
        source,
        num_images=num_images,
        batch_size=run.config.eval.batch_size,
        rounds=rounds,
        num_threads=data.num_threads,
        make_rivals=make_rivals,
    )
