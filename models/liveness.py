"""Liveness: do the learned masks change the prediction more than random masks that hide as many keys?

Liveness is the divergence under the learned masks divided by that under random masks that keep the same number of keys
in each row of each layer. Above 1, the adversaries know what to mask; at 1 or below, random masks do as well.
"""

from collections.abc import Sequence

import torch

from .asa import AsaModel, MaskRule
from .divergence import divergence


@torch.no_grad()
def divergences(model: AsaModel, generator: torch.Generator, labels: torch.Tensor, **batch) -> torch.Tensor:
    """(2,): the divergence from the clean prediction under the learned masks, and under random ones.

    Both are means over rows, or over masked words. They are computed without dropout, and in the precision of the
    weights even under autocast. The model is unchanged afterwards, and nothing is drawn from the global random
    generators.

    Args:
        generator: for the random masks, on the batch's device.
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    batch["return_dict"] = True
    kept: list[torch.Tensor] = []
    try:
        with torch.autocast(labels.device.type, enabled=False):
            clean = model.backbone(**batch).logits
            logits = []
            for rule in (noting(model.rule, kept), random_rule(model.rule, kept, generator)):
                with model.adversarial_mode(batch.get("attention_mask"), rule=rule):
                    logits.append(model.backbone(**batch).logits)
    finally:
        for module, training in modes:
            module.training = training
    of = labels, model.protocol, model.of_words
    return torch.stack([divergence(model.config, clean, each, *of) for each in logits])


def noting(rule: MaskRule, kept: list[torch.Tensor]) -> MaskRule:
    """The same rule, which also appends to `kept` how many keys each row of a layer keeps, (B, L, 1)."""

    def noting_rule(score: torch.Tensor, visible: torch.Tensor, real_query: torch.Tensor):
        keep, bias = rule(score, visible, real_query)
        kept.append(keep.sum(-1, keepdim=True))
        return keep, bias

    return noting_rule


def random_rule(rule, kept: Sequence[torch.Tensor], generator: torch.Generator) -> MaskRule:
    """A rule that keeps random keys, as many per row as `kept` says for each layer; the bias is that of `rule`.

    The list need not be filled before the returned rule is used.
    """
    layer = iter(kept)

    def random_keys(score: torch.Tensor, visible: torch.Tensor, real_query: torch.Tensor):
        drawn = torch.rand(score.shape, generator=generator, device=score.device).masked_fill(~visible, -1)
        place = drawn.argsort(-1, descending=True).argsort(-1)  # rank of each key in its row, invisible ones last
        keep = (place < next(layer)).to(score.dtype)
        return keep, (1 - keep) * rule.hidden_score

    return random_keys
