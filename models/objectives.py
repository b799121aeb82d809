"""How a step's loss is made: one wrapper per `--method`.

A method is a module around the backbone. In training mode its `forward(**batch)` returns an object with `.loss` and
`.logits`, and whatever else the method has to report; in evaluation mode it is the backbone.
"""

import argparse
import functools
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from models.asa import AsaModel, adversarial_layers, lose_attention_dropout
from models.rivals import R3F, FreeLB, RandomMask, RDrop, Smart
from utils import InputError


@dataclass(frozen=True)
class Method:
    """How a method's module is made.

    build: (backbone, setting=value, ...) -> module.
    flags: the arguments that the method reads, each with the setting that it is.
    """

    build: Callable[..., nn.Module]
    flags: dict[str, str] = field(default_factory=dict)


METHODS = {
    "naive": Method(lambda backbone: backbone),  # plain fine-tuning
    "asa": Method(
        functools.partial(AsaModel, one_forward=True),
        {
            "tau": "tau",
            "protocol": "protocol",
            "asa_layers": "layers",
            "asa_divergence_weight": "divergence_weight",
        },
    ),
    "random_mask": Method(
        RandomMask, {"random_mask_keep_rate": "keep_rate", "protocol": "protocol", "asa_layers": "layers"}
    ),
    "rdrop": Method(RDrop, {"rdrop_alpha": "alpha"}),
    "freelb": Method(
        FreeLB,
        {"freelb_steps": "steps", "freelb_lr": "lr", "freelb_init": "init", "freelb_max_norm": "max_norm"},
    ),
    "smart": Method(
        Smart,
        {
            "smart_weight": "weight",
            "smart_noise": "noise",
            "smart_step_size": "step_size",
            "smart_steps": "steps",
            "smart_radius": "radius",
            "smart_bregman": "bregman",
            "smart_momentum": "momentum",
        },
    ),
    "r3f": Method(R3F, {"r3f_weight": "weight", "r3f_noise": "noise", "r3f_eps": "eps"}),
}

# What a training output may hold beside its losses, averaged over steps for the log.
REPORTED = ("divergence", "penalty", "keep_rate", "fully_masked")


def build(method: str, backbone: PreTrainedModel, args: argparse.Namespace) -> nn.Module:
    """The module to train for a method of `METHODS`, with its settings from the arguments, or else its own defaults."""
    if getattr(args, "protocol", "paper") == "release":
        lose_attention_dropout(backbone)
    chosen = METHODS[method]
    settings = {setting: getattr(args, flag) for flag, setting in chosen.flags.items() if flag in args}
    return chosen.build(backbone, **settings)


def check(args: argparse.Namespace, config: PreTrainedConfig) -> None:
    """Raise `InputError` if the encoder is not one that the arguments of the method are made for."""
    if "asa_layers" not in METHODS[args.method].flags:
        return
    try:
        adversarial_layers(config, args.asa_layers)
    except ValueError as error:
        raise InputError(f"--asa_layers: {error}") from None


def unused_flags(method: str) -> set[str]:
    """The flags that change nothing in a run with this method, as only others read them.

    `protocol` is none of them: it says how data are padded, too.
    """
    flags = {flag for each in METHODS.values() for flag in each.flags}
    return flags - METHODS[method].flags.keys() - {"protocol"}


Share = tuple[int | torch.Tensor, int | torch.Tensor]  # (how many the part has, how many the whole batch has)


def weighted_loss(output, examples: Share, labels: Share) -> torch.Tensor:
    """What a part of a batch adds to the loss of the whole, so that parts add up to it exactly.

    Args:
        output: of a method's module in training mode, on the part.
        examples: the share of the batch's examples, over which divergence and penalty are means.
        labels: the share of its labels, over which a task loss is a mean; an example may have several.
    """
    if "task_loss" not in output:
        return of_labels(output.loss, labels)
    return of_labels(output.task_loss, labels) + _of(output.loss - output.task_loss, examples)


def figures(output, examples: Share, labels: Share) -> dict[str, torch.Tensor]:
    """What a part of a batch adds to the figures in the log: a scalar each, or one figure a layer.

    `train_loss` is the figure that is printed: without ASA's penalty, as in the release.
    """
    task_loss = of_labels(output.get("task_loss", output.loss).detach(), labels)
    means = {name: _of(output[name].detach(), examples) for name in REPORTED if name in output}
    return {"train_loss": task_loss + means.get("divergence", 0.0), "task_loss": task_loss, **means}


def of_labels(mean: torch.Tensor, share: Share) -> torch.Tensor:
    """What a part's mean over labels adds to that of the whole: 0 where it has none, and the mean is not a number."""
    return torch.where(torch.as_tensor(share[0], device=mean.device) > 0, _of(mean, share), 0.0)


def _of(mean: torch.Tensor, share: Share) -> torch.Tensor:
    part, whole = share
    return mean * part / whole
