"""How a step's loss is made: one wrapper per `--method`.

A method is a module around the backbone. In training mode its `forward(**batch)` returns an object with `.loss` and
`.logits`, and whatever else the method has to report; in evaluation mode it is the backbone.
"""

import argparse

import torch
from torch import nn
from transformers import PreTrainedModel

from models.asa import AsaModel

METHODS = {
    "asa": lambda backbone, args: AsaModel(backbone, tau=args.tau, protocol=args.protocol),
    "naive": lambda backbone, args: backbone,  # plain fine-tuning
}


def build(method: str, backbone: PreTrainedModel, args: argparse.Namespace) -> nn.Module:
    """The module to train for a method of `METHODS`, with its settings from the arguments."""
    return METHODS[method](backbone, args)


def printed_loss(output) -> torch.Tensor:
    """The figure that is printed as the train loss: without ASA's penalty, as in the release."""
    return output.task_loss + output.divergence if "divergence" in output else output.loss


# What a training output may hold beside its loss, and what is averaged over steps for the log.
REPORTED = ("task_loss", "divergence", "penalty", "keep_rate", "fully_masked")


def report(output) -> dict[str, torch.Tensor]:
    """The detached figures to log of one training output; a scalar each, but for those with one figure a layer."""
    figures = {"train_loss": printed_loss(output)}
    figures |= {name: output[name] for name in REPORTED if name in output}
    return {name: figure.detach() for name, figure in figures.items()}
