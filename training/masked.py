"""Evaluation under masks: the score of a trained model when its attention is masked."""

import argparse

import torch
from torch import nn
from transformers import PreTrainedModel

from models import methods
from models.asa import AsaModel
from models.checkpoints import ADVERSARY, check_numbers, read_state_dict
from utils import InputError

RANDOM = "random"


class UnderMasks(nn.Module):
    """A model that predicts under the masks of its `AsaModel`."""

    def __init__(self, model: AsaModel):
        super().__init__()
        self.model = model

    @property
    def backbone(self) -> nn.Module:
        return self.model.backbone

    def forward(self, **batch):
        with self.model.adversarial_mode(batch.get("attention_mask")):
            return self.model.backbone(**batch)


def under_masks(backbone: PreTrainedModel, args: argparse.Namespace) -> UnderMasks:
    """The model under the masks that `--eval_masks` requests, made by the rule of `--method`.

    Raises:
        InputError: the file has no adversaries, or they do not fit the encoder.
    """
    model = methods.build(args.method, backbone, args)
    assert isinstance(model, AsaModel)  # the arguments have been checked
    if args.eval_masks != RANDOM:
        load_adversaries(model, args.eval_masks)
    return UnderMasks(model)


def load_adversaries(model: AsaModel, path: str) -> None:
    """Copy only the adversaries of a checkpoint into a model.

    Raises:
        InputError: it has none, they are for an encoder of another size or for other layers, or they are not finite.
    """
    state = {
        name.partition(".adversary.")[2]: tensor
        for name, tensor in read_state_dict(path).items()
        if ADVERSARY.fullmatch(name)
    }
    if not state:
        raise InputError(f"--eval_masks {path}: it has no adversaries: give the checkpoint of an epoch with ASA")
    for name, tensor in state.items():
        check_numbers(tensor, f"--eval_masks {path}: {name}")
    own = model.adversaries.state_dict()
    if {name: tensor.shape for name, tensor in state.items()} != {name: tensor.shape for name, tensor in own.items()}:
        raise InputError(
            f"--eval_masks {path}: the adversaries of another encoder or of other layers: give --asa_layers as that run"
            " had it"
        )
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(state[name])
