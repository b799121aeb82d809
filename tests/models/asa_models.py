"""Small ASA models for the tests, and what is done with them."""

import torch
from conftest import gradients, tiny_backbone

from models.asa import AsaModel
from models.encoder_types import ENCODER_TYPES

ATTENTIONS = ("eager", "sdpa")
# What is tested with every head and setting; test_encoder_types.py has what is tested of every type.
ENCODERS = [
    (model_type, attention)
    for model_type in ("albert", "bert", "camembert", "distilbert", "electra", "mpnet", "roberta", "xlm-roberta")
    for attention in ENCODER_TYPES[model_type].attention
]


def training_step(model, batch):
    """Gradients by parameter name, and the output, of one training step."""
    model.train()
    model.zero_grad()
    output = model(**batch)
    output.loss.backward()
    return gradients(model), output


def asa(*arguments, tau=0.5, protocol="corrected", **settings) -> AsaModel:
    return AsaModel(tiny_backbone(*arguments, **settings), tau=tau, protocol=protocol)


def close(adversary, open_query=None) -> None:
    """Make an adversary mask everything; or all but the rows of queries with a positive first feature."""
    with torch.no_grad():
        for linear in (adversary.query, adversary.key):
            linear.weight.zero_()
            linear.bias.zero_()
        adversary.key.bias[0] = 1.0
        if open_query is None:
            adversary.query.bias[0] = -1.0
        else:
            adversary.query.weight[0, open_query] = 1.0
