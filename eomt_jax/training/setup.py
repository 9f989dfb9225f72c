"""Everything that a config describes, built and checked; nothing computed yet."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from eomt_jax.options import from_config
from eomt_jax.parallel.mesh import (
    check_accumulation,
    check_batch_size,
    create_mesh,
    reader_of,
)
from eomt_jax.pipeline import loader
from eomt_jax.pipeline.records import open_split
from eomt_jax.pipeline.samples import Source, TrainOptions
from eomt_jax.training import optimizer, schedules
from eomt_jax.training.checkpoints.stored_step import DataPosition
from eomt_jax.training.initialization import Initialization, initialize
from eomt_jax.training.options import RunOptions
from eomt_jax.training.reporting import trackers
from eomt_jax.training.reporting.logging import say
from eomt_jax.training.run_schedule import count_steps, mask_probs_schedule
from eomt_jax.training.state import (
    TrainState,
    abstract_state,
    create_state,
    param_shapes,
    variable_shapes,
)
from eomt_jax.training.step import TrainStep, make_train_step
from eomt_jax.trees import BATCH_STATS
from eomt_jax.types import DatasetInfo
from eomt_jax.weights.native import model_folder


@dataclasses.dataclass(frozen=True)
class Setup:
    """A run before its first step.

    Attributes:
      config: the recipe, resolved.
      mesh: of all devices.
      source: the split that is trained on.
      initialization: the network and its pre-trained weights.
      total_steps: length of the run.
      tx: the optimizer.
      train_step: jitted, not yet compiled.
    """

    config: RunOptions
    mesh: Mesh
    source: Source
    initialization: Initialization
    total_steps: int
    tx: optax.GradientTransformation
    train_step: TrainStep

    @property
    def info(self) -> DatasetInfo:
        return self.source.info

    @property
    def warnings(self) -> list[str]:
        """Sentences about what a user may not have meant, for the start of a run."""
        found = [self.initialization.warning] if self.initialization.warning else []
        num_queries = self.initialization.model.num_queries
        if self.info.max_segments > num_queries:
            found.append(
                f"A photograph of {self.info.name} has {self.info.max_segments} segments "
                f"and the network {num_queries} queries, each of which finds one at "
                f"most: {self.info.max_segments - num_queries} of them are never found. "
                f"Set --config.model.num_queries={self.info.max_segments} or more."
            )
        annealing, model = self.config.annealing, self.initialization.model
        masked = not annealing.enabled and annealing.if_disabled == "masked"
        if masked and not getattr(model, "masked_inference", False):
            found.append(
                "Attention is masked until the end of training and then not in "
                "predictions, which are poor without it. Set "
                "--config.model.inference=masked, or --config.annealing.enabled=true so "
                "that training does without it at the end."
            )
        return found

    def trainable(self, tree: Any) -> Any:
        """Returns the part of a tree like the parameters' that is trained."""
        model = self.initialization.model
        groups = model.parameter_groups(param_shapes(model))
        return optimizer.trainable(tree, groups, self.config.optimizer.frozen_blocks)

    def abstract_state(self) -> TrainState:
        """Returns shapes and places of the state."""
        return abstract_state(self.initialization.model, self.tx, self.mesh)

    def create_state(self) -> TrainState:
        """Returns the state before the first step."""
        return create_state(
            self.initialization.model,
            self.tx,
            jax.random.key(self.config.seed),
            self.mesh,
            loaded=self.initialization.loaded,
        )

    def without_weights(self) -> "Setup":
        """Returns this setup without the pre-trained weights, which the state now holds.

        On the host they take as much as the parameters themselves.
        """
        bare = dataclasses.replace(self.initialization, loaded=None)
        return dataclasses.replace(self, initialization=bare)

    def position(self, step: int) -> DataPosition:
        """Returns the run's place in the stream of examples after `step` steps."""
        config = self.config
        return DataPosition(
            next_example=step * config.batch_size,
            batch_size=config.batch_size,
            seed=config.seed,
            dataset=config.dataset.name,
            split=config.dataset.train_split,
            fingerprint=self.info.fingerprint,
        )

    @property
    def train_options(self) -> TrainOptions:
        """Options for making training samples from records."""
        config = self.config
        return TrainOptions(
            **vars(config.augmentation),
            image_size=config.image_size,
            max_targets=config.dataset.max_targets,
            on_damaged=config.dataset.on_damaged,
            mark_void=config.criterion.ignore_void,
        )

    def train_batches(self, *, start_example: int) -> loader.BatchIterator:
        """Returns this process's rows of the training batches, from a position on."""
        config, reader = self.config, reader_of(self.mesh)
        return loader.train_batches(
            self.source,
            global_batch_size=config.batch_size,
            options=self.train_options,
            seed=config.seed,
            start_example=start_example,
            reader_index=reader.index,
            num_readers=reader.count,
            num_threads=config.dataset.num_threads,
            num_workers=config.dataset.num_workers,
        )


def setup(
    recipe: ConfigDict,
    *,
    devices: Sequence[Any] | None = None,
    resumed: model_folder.ModelConfig | None = None,
    source: Source | None = None,
) -> Setup:
    """Builds what a recipe describes.

    Args:
      recipe: the fields of RunOptions, as `configs.common.get_config` returns them.
      devices: all that JAX sees unless given.
      resumed: the network of a run that is resumed, see `initialization.initialize`.
      source: the split that is trained on; the prepared one that config names unless
        given.

    Raises:
      ImportError: the tracker that is asked for isn't installed.
      ValueError: a field is out of its range, the dataset is not prepared, or fields
        contradict one another.
    """
    config = from_config(RunOptions, recipe)
    trackers.check(config.logging.tracker)
    mesh = create_mesh(config.mesh, devices=devices)
    check_batch_size(config.batch_size, mesh)
    check_accumulation(config.accumulation, config.batch_size, mesh)
    check_batch_size(config.eval.batch_size, mesh, field="eval.batch_size")
    if config.eval.patience and not (
        config.eval.every_steps and config.checkpoint.keep_best
    ):
        raise ValueError(
            f"eval.patience = {config.eval.patience} needs evaluations and the best of "
            "them: set eval.every_steps and checkpoint.keep_best = 1"
        )
    data = config.dataset
    if source is None:
        source = open_split(data.data_dir, data.name, data.train_split)
    config = _with_a_split_to_review(config, source.info)
    initialization = initialize(
        config.model,
        config.init,
        class_names=[c.name for c in source.info.classes],
        image_size=(config.image_size, config.image_size),
        resumed=resumed,
    )
    frozen_blocks = config.optimizer.frozen_blocks
    if frozen_blocks and not (config.init.backbone or config.init.checkpoint):
        raise ValueError(
            f"optimizer.frozen_blocks = {frozen_blocks} would freeze weights drawn at "
            "random; set init.backbone or init.checkpoint"
        )
    model = initialization.model
    if config.accumulation > 1 and BATCH_STATS in variable_shapes(model):
        raise ValueError(
            f"config.accumulation = {config.accumulation}: this network normalises over "
            "the whole batch, which its parts can't know of one another; set it to 1 and "
            "spread the batch over more devices, or make batch_size smaller"
        )
    total_steps = count_steps(config, num_examples=len(source))
    tx = optimizer.create_optimizer(
        model.parameter_groups(param_shapes(model)),
        config.optimizer,
        total_steps=total_steps,
    )
    train_step = make_train_step(
        model,
        config.criterion,
        tx,
        mask_probs_fn=mask_probs_schedule(
            config,
            total_steps=total_steps,
            num_masked_layers=model.num_masked_layers,
        ),
        learning_rate_fns=schedules.learning_rate_schedules(
            config.optimizer, total_steps=total_steps
        ),
        mesh=mesh,
        frozen_blocks=frozen_blocks,
        accumulation=config.accumulation,
    )
    return Setup(config, mesh, source, initialization, total_steps, tx, train_step)


def _with_a_split_to_review(config: RunOptions, info: DatasetInfo) -> RunOptions:
    """Returns the config, without evaluations if there is no validation split.

    Pictures on the way are then drawn of training photographs.

    Raises:
      ValueError: another split is asked for, and the dataset hasn't got it.
    """
    asked = config.eval.every_steps > 0 or config.logging.picture_every_steps > 0
    split = config.dataset.eval_split
    if not asked or split.partition("[")[0] in info.num_examples:
        return config
    has = ", ".join(sorted(info.num_examples))
    if split != "validation":
        raise ValueError(
            f"config.dataset.eval_split = {split}: {info.name} has no such split; it "
            f"has {has}"
        )
    say(
        f"{info.name} has no validation split (it has {has}): this run is not "
        "evaluated, and its pictures show training photographs. "
        "--config.dataset.eval_split=train evaluates on what is trained on."
    )
    never = dataclasses.replace(config.eval, every_steps=0)
    return dataclasses.replace(config, eval=never)
