"""The registry of methods: one row per `--method`, with the flags that it reads.

A method is a module around the backbone. In training mode, its `forward(**batch)` returns an object with `.loss`,
`.logits` and any other figures that the method reports. In evaluation mode, it only calls the backbone.

The command line reads this table first, so PyTorch is imported only when a module is built.
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from utils import InputError

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedConfig, PreTrainedModel

# The choices on the command line. tests/training/test_methods.py checks that the modules accept them.
PROTOCOLS = ("corrected", "release")
ATTENTION_IMPLEMENTATIONS = ("eager", "sdpa")
R3F_NOISES = ("uniform", "normal")
TAU = 0.5  # the default: tau^2 is the weight of ASA's penalty
ASA_BUDGET = 0.1  # the default share of its keys that each query hides
RANDOM_MASK_KEEP_RATE = 0.9


@dataclass(frozen=True)
class Method:
    """How to build a method's module.

    module, name: the module below models/ and the class in it; both empty for plain fine-tuning.
    flags: the arguments that the method reads, each with the name of the class's parameter; "" if the training loop
        reads the argument, not the class.
    fixed: other parameters of the class, with their values.
    of_words: whether it also supports masked language modelling; methods that add noise to the embeddings do not.
    """

    module: str = ""
    name: str = ""
    flags: Mapping[str, str] = field(default_factory=dict)
    fixed: Mapping[str, object] = field(default_factory=dict)
    of_words: bool = True


METHODS = {
    "naive": Method(),  # plain fine-tuning
    "asa": Method(
        "asa",
        "AsaModel",
        {
            "tau": "tau",
            "protocol": "protocol",
            "asa_layers": "layers",
            "asa_divergence_weight": "divergence_weight",
            "adversary_learning_rate": "",
        },
        {"one_forward": True},
    ),
    "random_mask": Method(
        "baselines",
        "RandomMask",
        {
            "random_mask_keep_rate": "keep_rate",
            "random_mask_budget": "budget",
            "protocol": "protocol",
            "asa_layers": "layers",
            "asa_divergence_weight": "divergence_weight",
        },
    ),
    "rdrop": Method("baselines", "RDrop", {"rdrop_alpha": "alpha"}),
    "freelb": Method(
        "baselines",
        "FreeLB",
        {
            "freelb_steps": "steps",
            "freelb_lr": "lr",
            "freelb_init": "init",
            "freelb_max_norm": "max_norm",
            "freelb_embedding_norm": "embedding_norm",
        },
        of_words=False,
    ),
    "smart": Method(
        "baselines",
        "Smart",
        {
            "smart_weight": "weight",
            "smart_noise": "noise",
            "smart_step_size": "step_size",
            "smart_steps": "steps",
            "smart_radius": "radius",
            "smart_bregman": "bregman",
            "smart_momentum": "momentum",
            "smart_early_momentum": "early_momentum",
        },
        of_words=False,
    ),
    "r3f": Method("baselines", "R3F", {"r3f_weight": "weight", "r3f_noise": "noise", "r3f_eps": "eps"}, of_words=False),
    # ASA under a row budget
    "asa_budget": Method(
        "asa",
        "AsaModel",
        {
            "asa_budget": "budget",
            "protocol": "protocol",
            "asa_layers": "layers",
            "asa_divergence_weight": "divergence_weight",
            "adversary_learning_rate": "",
        },
        {"one_forward": True},
    ),
}


def build(method: str, backbone: PreTrainedModel, args: argparse.Namespace) -> nn.Module:
    """Build the module to train for a method of `METHODS`; settings that `args` lacks keep their defaults.

    Raises:
        InputError: the method does not work with this model.
    """
    from models.asa import lose_attention_dropout

    if getattr(args, "protocol", "corrected") == "release":
        lose_attention_dropout(backbone)
    chosen = METHODS[method]
    if not chosen.name:
        return backbone
    settings = {setting: getattr(args, flag) for flag, setting in chosen.flags.items() if setting and flag in args}
    module = importlib.import_module(f"models.{chosen.module}")
    try:
        return getattr(module, chosen.name)(backbone, **chosen.fixed, **settings)
    except ValueError as error:
        raise InputError(f"--method {method}: {error}") from None


def check(args: argparse.Namespace, config: PreTrainedConfig) -> None:
    """Raise `InputError` if the method's arguments do not fit the encoder."""
    if "asa_layers" not in METHODS[args.method].flags:
        return
    from models.asa import adversarial_layers

    try:
        adversarial_layers(config, args.asa_layers)
    except ValueError as error:
        raise InputError(f"--asa_layers: {error}") from None


def is_adversary_s(name: str) -> bool:
    """Whether a parameter of a method's module, by its name, belongs to the adversaries."""
    return name.startswith("adversaries.")


def adversaries_apart(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """The parameters that have a gradient, in two lists: all others, and those of the adversaries.

    Args:
        model: a method's module, unwrapped from any distributed wrapper.
    """
    apart: tuple[list, list] = [], []
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            apart[is_adversary_s(name)].append(parameter)
    return apart


def unused_flags(method: str) -> set[str]:
    """The flags that have no effect in a run with this method, because only other methods read them.

    `protocol` is not among them: it also decides how the data are padded.
    """
    flags = {flag for each in METHODS.values() for flag in each.flags}
    return flags - METHODS[method].flags.keys() - {"protocol"}
