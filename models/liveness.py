"""Whether there is an adversary: do its masks move the prediction further than random ones that hide as much?

Liveness is the divergence under the learned masks over that under random masks which keep the same number of keys in
each row of each layer. Above 1, the adversaries know what to hide; at 1 and below, chance does as well.
"""

from collections.abc import Sequence

import torch

from .asa import AsaModel, MaskRule
from .divergence import divergence


@torch.no_grad()
def divergences(model: AsaModel, generator: torch.Generator, labels: torch.Tensor, **batch) -> torch.Tensor:
    """(2,): the divergence from the clean prediction under the learned masks, and under random ones.

    Both are means over rows, or over masked words. There is no dropout, and the precision is that of the weights, also
    under autocast. The model is left as it was, and nothing is drawn from the global random streams.

    Args:
        generator: of the batch's device, that the random masks are drawn from.
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
    """The same rule, which adds to `kept` how many keys each row of a layer keeps, (B, L, 1)."""

    def noting_rule(score: torch.Tensor, visible: torch.Tensor, real_query: torch.Tensor):
        keep, bias = rule(score, visible, real_query)
        kept.append(keep.sum(-1, keepdim=True))
        return keep, bias

    return noting_rule


def random_rule(rule, kept: Sequence[torch.Tensor], generator: torch.Generator) -> MaskRule:
    """Keeps as many keys of each row as there are in `kept`, layer by layer, drawn at random; the bias is the rule's.

    The list may be filled as late as the rule is used.
    """
    layer = iter(kept)

    def random_keys(score: torch.Tensor, visible: torch.Tensor, real_query: torch.Tensor):
        drawn = torch.rand(score.shape, generator=generator, device=score.device).masked_fill(~visible, -1)
        place = drawn.argsort(-1, descending=True).argsort(-1)  # of each key in its row, the invisible ones last
        keep = (place < next(layer)).to(score.dtype)
        return keep, (1 - keep) * rule.hidden_score

    return random_keys
