"""Builds transformers' EoMT with the architecture and the weights of one of ours."""

from typing import Any

import numpy as np

from eomt_jax.losses.options import CriterionOptions
from eomt_jax.models.network import Network
from eomt_jax.weights.foreign import huggingface
from eomt_jax.weights.foreign.huggingface_config import network_config


def create_network(model: Network, params: Any, criterion: CriterionOptions) -> Any:
    """Returns transformers' network with our architecture, weights and loss settings.

    Args:
      model: our network.
      params: its parameters.
      criterion: the recipe's `criterion`.

    Returns:
      The network in training mode; `huggingface.named_tensors` maps our parameters to
      its names.

    Raises:
      ValueError: transformers has no such network.
    """
    import torch
    import transformers

    classes = {
        "eomt": (transformers.EomtConfig, transformers.EomtForUniversalSegmentation),
        "eomt_dinov3": (
            transformers.EomtDinov3Config,
            transformers.EomtDinov3ForUniversalSegmentation,
        ),
    }
    model = huggingface.as_eomt(model)
    fields = network_config(model)
    config_class, network_class = classes[fields.pop("model_type")]
    config = config_class(
        **fields,
        num_labels=model.num_classes,  # pyright: ignore
        train_num_points=criterion.num_points,
        oversample_ratio=criterion.oversample_ratio,
        importance_sample_ratio=criterion.importance_ratio,
        mask_weight=criterion.mask_weight,
        dice_weight=criterion.dice_weight,
        class_weight=criterion.class_weight,
        no_object_weight=criterion.no_object_weight,
    )
    network = network_class(config)
    tensors = huggingface.named_tensors(model, params)
    parameters = dict(network.named_parameters())
    if parameters.keys() != tensors.keys():
        raise ValueError(
            "transformers' EoMT has other parameters than ours: "
            f"{sorted(parameters.keys() ^ tensors.keys())}"
        )
    with torch.no_grad():
        for name, parameter in parameters.items():
            value = torch.from_numpy(np.array(tensors[name].value))
            if parameter.shape != value.shape:
                raise ValueError(
                    f"{name} is {tuple(parameter.shape)} in transformers' EoMT and "
                    f"{tuple(value.shape)} in ours"
                )
            parameter.copy_(value)
    return network.train()
