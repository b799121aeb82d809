"""Masked language modelling: predictions of the masked words alone.

The logits of a whole vocabulary are by far the largest tensors of such a training: for a batch of 32 rows of 128 tokens
and 30,522 words, half a gigabyte each. A seventh of the tokens is masked, and nothing but these needs a prediction. So
the head gets the last layer's states of the masked words alone, in every method and in the evaluation too.
"""

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

WORDS = "words"


def predict_given_words(backbone: PreTrainedModel) -> None:
    """Let a masked-LM model take `words` (B, M): places of tokens in their rows, of which alone it then gives logits.

    These are (B, M, V), and the `labels` have to be (B, M), ignored where a row has fewer words than the others. The
    head and the loss are the model's own. Without `words` it does what it always did.
    """
    given = _Words()
    backbone.register_forward_pre_hook(given.take, with_kwargs=True)
    base: Any = backbone.base_model
    base.register_forward_hook(given.pick)
    backbone.register_forward_hook(given.drop, always_call=True)


class _Words:
    """The hooks of one model, and between the first and the last the places of the call."""

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
