r"""Trains transformers' EoMT on our batches, to compare its loss curve with ours.

  python -m eomt_jax.benchmark.torch_reference --config=configs/coco_panoptic_vits_640_1x.py \
      --config.model.dtype=float32 --workdir=runs/reference --compare=runs/vits

With the config of a run of train.py the reference sees the same batches in the same
order, begins with the same weights, and has the same learning rates, weight decay, clip
and mask probabilities at each step. The network, the loss, the matching and AdamW are
its own, and torch draws its points and masked queries at random. So the curves agree
statistically and not bit by bit. It always computes in float32.

--workdir receives metrics.jsonl with the names that train.py writes, one record a step.
Without --config nothing is trained, and --compare takes the curve that --workdir holds.
"""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import flax.traverse_util
import jax
import ml_collections
import numpy as np
from absl import app, flags
from etils import epath
from jaxtyping import UInt8

from eomt_jax.benchmark import curves
from eomt_jax.benchmark.torch_network import create_network
from eomt_jax.cli import config_flag
from eomt_jax.models.network import Network
from eomt_jax.models.vit import IMAGENET_MEAN, IMAGENET_STD
from eomt_jax.training import optimizer, schedules
from eomt_jax.training.reporting.logging import Scalars, say
from eomt_jax.training.reporting.metrics_writer import MetricsWriter
from eomt_jax.training.run_schedule import mask_probs_schedule
from eomt_jax.training.setup import Setup, setup
from eomt_jax.types import Batch, Targets
from eomt_jax.weights.foreign import huggingface
from eomt_jax.weights.native import model_folder

PyTree = Any

# Maps its names of the loss's weighted parts to ours.
LOSS_PARTS = {"loss_mask": "mask", "loss_dice": "dice", "loss_cross_entropy": "class"}


class Reference:
    """transformers' network and torch's AdamW under one run's schedules.

    Attributes:
      network: an EomtForUniversalSegmentation in training mode.
      adamw: the optimizer; each of its groups holds its `optimizer.RateRule`.
      step: number of optimizer steps done.
    """

    def __init__(
        self,
        run: Setup,
        params: PyTree,
        *,
        compile_options: Mapping[str, Any] | None = None,
    ):
        """Builds the network with our initial parameters, and its optimizer.

        Args:
          run: setup of the config.
          params: our initial parameters.
          compile_options: options of torch.compile for the network's blocks and heads.
            The code between them, the loss, which calls scipy, and AdamW are not
            compiled; with None nothing is.

        Raises:
          ValueError: the run freezes blocks, which the reference can't do.
        """
        import torch

        config = run.config
        if config.optimizer.frozen_blocks:
            raise ValueError(
                "the reference trains every parameter: set optimizer.frozen_blocks "
                f"to 0 instead of {config.optimizer.frozen_blocks}"
            )
        torch.manual_seed(config.seed)
        model = run.initialization.model
        self.network = create_network(model, params, config.criterion)
        if compile_options is not None:
            whole: Any = self.network
            for part in (*whole.layers, whole.upscale_block, whole.mask_head):
                part.compile(**compile_options)
        self.adamw = _create_adamw(self.network, model, params, config.optimizer)
        self.step = 0
        self._clip_norm = config.optimizer.clip_norm
        self._rates = schedules.learning_rate_schedules(
            config.optimizer, total_steps=run.total_steps
        )
        self._mask_probs = mask_probs_schedule(
            config,
            total_steps=run.total_steps,
            num_masked_layers=model.num_masked_layers,
        )
        if self._mask_probs(0) is None:
            raise ValueError(
                "transformers' EoMT predicts before each masked block in training: set "
                "config.annealing.if_disabled to 'unmasked' or 'masked' to compare"
            )
        self._parts: list[Mapping[str, Any]] = []
        get_loss_dict = self.network.get_loss_dict

        def record(**inputs: Any) -> Mapping[str, Any]:
            self._parts.append(get_loss_dict(**inputs))
            return self._parts[-1]

        self.network.get_loss_dict = record

    def set_rates(self) -> tuple[float, float]:
        """Sets each group's learning rate for the next step; returns (head, ViT)."""
        head, vit = (float(rate(self.step)) for rate in self._rates)
        for group in self.adamw.param_groups:
            rule = group["rule"]
            group["lr"] = (vit if rule.in_backbone else head) * rule.multiplier
        return head, vit

    def loss(self, batch: Batch) -> Any:
        """Returns the total loss at the next step's mask probabilities and its graph."""
        import torch

        probs = np.array(self._mask_probs(self.step), np.float32)
        self.network.attn_mask_probs.copy_(torch.from_numpy(probs))
        self._parts.clear()
        masks, classes = target_lists(batch.targets)
        pixels = pixel_values(np.asarray(batch.image))
        return self.network(pixels, mask_labels=masks, class_labels=classes).loss

    def train_step(self, batch: Batch) -> Scalars:
        """Makes one optimizer step; returns its metrics under train.py's names."""
        import torch

        head, vit = self.set_rates()
        self.adamw.zero_grad()
        loss = self.loss(batch)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(
            self.network.parameters(), self._clip_norm
        )
        self.adamw.step()
        self.step += 1
        metrics = {"loss": loss.item()}
        for name, part in LOSS_PARTS.items():
            metrics[f"loss/{part}"] = sum(terms[name].item() for terms in self._parts)
        metrics |= {"grad_norm": norm.item()}
        metrics |= {"learning_rate/head": head, "learning_rate/vit": vit}
        probs = self.network.attn_mask_probs.tolist()
        return metrics | {f"mask_prob/{i}": prob for i, prob in enumerate(probs)}


def _create_adamw(
    network: Any, model: Network, params: PyTree, options: optimizer.OptimizerOptions
) -> Any:
    import torch

    rules = flax.traverse_util.flatten_dict(
        optimizer.rate_rules(
            model.parameter_groups(params),
            layer_decay=options.layer_decay,
            undecayed_blocks=options.undecayed_blocks,
        ),
        sep="/",
    )
    tensors = huggingface.named_tensors(huggingface.as_eomt(model), params)
    groups = {}
    for name, parameter in network.named_parameters():
        if parameter.numel():
            groups.setdefault(rules[tensors[name].path], []).append(parameter)
    return torch.optim.AdamW(
        [{"params": members, "rule": rule} for rule, members in groups.items()],
        lr=0.0,
        betas=(options.beta1, options.beta2),
        eps=options.eps,
        weight_decay=options.weight_decay,
    )


def pixel_values(images: UInt8[np.ndarray, "B H W 3"]) -> Any:
    """Returns the images as a normalised float32 tensor [B, 3, H, W]."""
    import torch

    mean, std = np.array([IMAGENET_MEAN, IMAGENET_STD], np.float32)
    pixels = (images.astype(np.float32) / 255 - mean) / std
    return torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy())


def target_lists(targets: Targets) -> tuple[list[Any], list[Any]]:
    """Returns masks, float32 [n, H, W], and classes, int64 [n], of each image."""
    import torch

    masks, classes = [], []
    wanted = np.asarray(targets.valid) & ~np.asarray(targets.is_crowd)
    for b, (labels, keep) in enumerate(zip(targets.labels, wanted)):
        (kept,) = np.nonzero(keep)
        if targets.id_map is not None:
            found = np.asarray(targets.id_map[b]) == kept[:, None, None] + 1
        else:
            bits = np.asarray(targets.mask_bits)[b]
            found = np.unpackbits(bits, axis=-1, bitorder="little")[..., kept]
            found = found.transpose(2, 0, 1)
        masks.append(torch.from_numpy(found.astype(np.float32)))
        classes.append(torch.from_numpy(np.asarray(labels)[kept].astype(np.int64)))
    return masks, classes


def train(
    config: ml_collections.ConfigDict,
    workdir: epath.PathLike,
    *,
    num_steps: int = 0,
    devices: Sequence[Any] | None = None,
) -> Reference:
    """Trains the reference as `loop.train` would train ours, always from the start.

    Args:
      config: the recipe, see `setup.setup`.
      workdir: folder for metrics.jsonl and TensorBoard files, other than that of a run
        of train.py.
      num_steps: stops after so many steps of the schedules; 0 takes all of them.
      devices: devices that make our initial weights; by default all that JAX sees.

    Returns:
      The reference after its last step.
    """
    workdir = epath.Path(workdir).expanduser()
    if (workdir / model_folder.MODEL_FILE).exists():
        raise ValueError(
            f"{workdir} is the folder of a run of train.py, whose metrics.jsonl would "
            "be lost: give the reference a --workdir of its own"
        )
    workdir.mkdir(parents=True, exist_ok=True)
    run = setup(config, devices=devices)
    report_every = max(1, run.config.logging.every_steps)
    reference = Reference(run, jax.device_get(run.create_state().params))
    num_steps = min(num_steps or run.total_steps, run.total_steps)
    with (
        run.train_batches(start_example=0) as batches,
        MetricsWriter(workdir, step=0) as writer,
    ):
        while reference.step < num_steps:
            begin = time.monotonic()
            metrics = reference.train_step(next(batches))
            metrics["seconds"] = seconds = time.monotonic() - begin
            writer.scalars(reference.step, metrics)
            writer.flush()
            if not np.isfinite(metrics["loss"]):
                raise FloatingPointError(
                    f"the reference's loss is {metrics['loss']} at step "
                    f"{reference.step}"
                )
            if reference.step % report_every == 0:
                say(
                    f"reference step {reference.step}/{num_steps} "
                    f"loss {metrics['loss']:.3f} {seconds:.2f} s a step"
                )
    return reference


def run_main() -> None:
    """Defines the flags, which must not happen on import, and runs."""
    config = config_flag.define_config_flag()
    flags.DEFINE_string("workdir", None, "Folder of the reference, made if missing.")
    flags.DEFINE_integer("steps", 0, "Stop after so many steps; 0: the whole run.")
    flags.DEFINE_integer("torch_threads", 0, "Threads of torch; 0: as it likes.")
    flags.DEFINE_string("compare", None, "Workdir of a run of train.py to compare.")
    flags.DEFINE_integer("window", 0, "Steps averaged; 0: a tenth of the run.")
    flags.mark_flag_as_required("workdir")

    def main(argv: list[str]) -> None:
        if len(argv) > 1:
            raise app.UsageError(f"unknown arguments {argv[1:]}")
        options = flags.FLAGS
        if config.value is None and not options.compare:
            raise app.UsageError("nothing to do: give --config, --compare or both")
        if config.value is not None:
            import torch

            if options.torch_threads:
                torch.set_num_threads(options.torch_threads)
            train(config.value, options.workdir, num_steps=options.steps)
        if options.compare:
            comparison = curves.compare(
                options.compare, options.workdir, window=options.window
            )
            say(curves.write_comparison(comparison, options.workdir))

    app.run(main, flags_parser=config_flag.parse_flags)


if __name__ == "__main__":
    run_main()
