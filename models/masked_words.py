"""Masked language modelling: predict only the masked words.

The logits over the vocabulary are by far the largest tensors in training: half a gigabyte each for a batch of 32 rows
of 128 tokens and 30,522 words. Only the masked tokens, a seventh of all, need a prediction. The head therefore gets the
last layer's states of the masked words alone, in every method and in evaluation.
"""

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

WORDS = "words"


def predict_given_words(backbone: PreTrainedModel) -> None:
    """Let a masked-LM model accept `words` (B, M), token positions, and return logits for these tokens only.

    The logits are (B, M, V) and the `labels` must be (B, M), with the ignored label where a row has fewer words than
    others. The head and the loss are the model's own. Without `words`, the model is unchanged.
    """
    given = _Words()
    backbone.register_forward_pre_hook(given.take, with_kwargs=True)
    base: Any = backbone.base_model
    base.register_forward_hook(given.pick)
    backbone.register_forward_hook(given.drop, always_call=True)


class _Words:
    """The hooks of one model; during a call, also the positions of its words."""

    def __init__(self):
        self.places: torch.Tensor | None = None

    def take(self, model: nn.Module, args: tuple, kwargs: dict):
        self.places = kwargs.get(WORDS)
        return args, {name: value for name, value in kwargs.items() if name != WORDS}

    def pick(self, base: nn.Module, args: tuple, output):
        if self.places is None:
            return None
        states = output[0]  # (B, L, H)
        picked = states.gather(1, self.places[..., None].expand(-1, -1, states.shape[-1]))  # (B, M, H)
        if isinstance(output, tuple):
            return (picked, *output[1:])
        output["last_hidden_state"] = picked
        return output

    def drop(self, model: nn.Module, args: tuple, output) -> None:
        self.places = None
