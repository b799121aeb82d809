"""Small models with each baseline, and the settings they are tested with."""

import argparse

import torch
from conftest import tiny_backbone, tiny_batch

from models import methods
from models.baselines import RandomScores

SETTINGS = {
    "random_mask": {"random_mask_keep_rate": 0.8, "random_mask_budget": None, "asa_divergence_weight": 0.7},
    "rdrop": {"rdrop_alpha": 0.7},
    "freelb": {
        "freelb_steps": 3,
        "freelb_lr": 0.2,
        "freelb_init": 0.5,
        "freelb_max_norm": 0.45,
        "freelb_embedding_norm": 0.0,
    },
    "smart": {
        "smart_weight": 0.7,
        "smart_noise": 0.01,
        "smart_step_size": 0.05,
        "smart_steps": 2,
        "smart_radius": 0.08,
        "smart_bregman": 0.4,
        "smart_momentum": 0.9,
        "smart_early_momentum": 0.6,
    },
    "r3f": {"r3f_weight": 0.7, "r3f_noise": "uniform", "r3f_eps": 0.05},
}
BASELINES = sorted(SETTINGS)
OF_BOTH = {"asa_layers", "asa_divergence_weight", "adversary_learning_rate"}  # asa and asa_budget
KINDS = {  # name -> head, number of labels
    "sequence": ("sequence", 3),
    "regression": ("sequence", 1),
    "choice": ("choice", 3),
    "token": ("token", 3),
}


def build(method: str, kind: str = "sequence", model_type: str = "bert", changes=None, **settings):
    """A method's module in training mode, and a batch."""
    head, num_labels = KINDS[kind]
    backbone = tiny_backbone(model_type, head, num_labels=num_labels, **changes or {})
    args = argparse.Namespace(**SETTINGS[method] | {"protocol": "corrected"} | settings)
    return methods.build(method, backbone, args).train(), tiny_batch(head, num_labels=num_labels)


def same_noise(monkeypatch) -> None:
    """One noise for every sequence, whatever their number and the padding, in place of random draws."""

    def drawn(shape, dtype=torch.float32):
        return torch.rand(shape[1:], dtype=dtype, generator=torch.Generator().manual_seed(1)).expand(shape)

    def like(tensor):
        wide = drawn((tensor.shape[0], 32, tensor.shape[2]), tensor.dtype)
        return wide[:, : tensor.shape[1]].contiguous()

    monkeypatch.setattr(torch, "rand_like", like)
    monkeypatch.setattr(torch, "randn_like", like)
    monkeypatch.setattr(
        RandomScores, "forward", lambda self, hidden: self.keep_rate - drawn((*hidden.shape[:2], hidden.shape[1]))
    )
