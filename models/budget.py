"""The row budget: a rule for ASA's masks under which the adversary cannot switch itself off.

Under ASA's own rule, the adversary decides how much it masks and is rewarded for masking nothing, so its masks open.
Here every query row masks a fixed share of its keys, those with the lowest scores: the adversary only decides which.
There is no penalty. A masked key keeps a small attention weight, and so a gradient: it can come back.
docs/row_budget.md explains the design; `AsaModel(backbone, budget=0.1)` uses the rule.
"""

import functools
import math

import torch

EPS = 1e-4


class RowBudget:
    """Masks k = max(1, round(beta n)) of the n keys that a real query sees, but at most n - 1.

    Args:
        beta: the share of the keys that is masked.
        eps: factor on the attention weight of a masked key, before the row is normalised.

    Attributes:
        hidden_score: added to the attention score of a masked key: log of eps.

    Raises:
        ValueError: beta is not a share.
    """

    def __init__(self, beta: float, eps: float = EPS):
        if not 0 < beta <= 1:
            raise ValueError(f"budget {beta!r}: the share of the keys to hide is above 0, up to 1")
        self.beta, self.eps = beta, eps
        self.hidden_score = math.log(eps)

    def __call__(
        self, score: torch.Tensor, visible: torch.Tensor, real_query: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Scores (B, L, L), visible keys (B, 1 or L, L), real queries (B, L, 1) -> keep-mask and attention bias.

        The bias is 0 on kept keys and `hidden_score` on others. If g is the gradient of the bias, that of a score is -g
        w sigma'((score - threshold) / s). Here s is the standard deviation of the scores of all pairs, and w is 1 / eps
        for a masked key and 1 for others: the bias is the logarithm of a gate z in {eps, 1} that multiplies the
        attention weight, and g / z is the gradient of z. The minus sign reverses the gradient, so that the adversary
        ascends.
        """
        with torch.no_grad():
            pairs = visible & real_query
            above = score - self.thresholds(score, pairs)
            kept = (above > 0) & visible
            gate = (above / spread(score, pairs)).sigmoid()
            unmasked = kept | ~kept.any(-1, keepdim=True)  # a row in which nothing is kept stays unmasked
            slope = gate * (1 - gate) * torch.where(unmasked, 1.0, 1 / self.eps) * pairs
            keep = kept.to(score.dtype)
            bias = (1 - keep) * self.hidden_score
        return keep, bias - slope * (score - score.detach())

    def thresholds(self, score: torch.Tensor, pairs: torch.Tensor) -> torch.Tensor:
        """The thresholds (B, L, 1) for scores (B, L, L): keys with higher scores are kept."""
        return thresholds(score, pairs, self.beta)


def thresholds(score: torch.Tensor, pairs: torch.Tensor, beta: float) -> torch.Tensor:
    """(B, L, 1): midway between a row's k-th lowest score and the next; -inf if no key is to be masked.

    Equal scores are treated alike: if several are at the threshold, all are masked, which may be more than k.
    """
    keys = pairs.sum(-1, keepdim=True)
    length = score.shape[-1]
    hidden = _table(beta, 1 << length.bit_length(), score.device)[keys]  # (B, L, 1)
    most = hidden_keys(beta, length)[-1]
    lowest = score.masked_fill(~pairs, torch.inf).topk(most + 1, largest=False).values
    below, above = lowest.gather(-1, (hidden - 1).clamp(min=0)), lowest.gather(-1, hidden)
    middle = (below + above) / 2
    middle = torch.where(middle < above, middle, below)  # if no number lies between the two
    return torch.where(hidden > 0, middle, -torch.inf)


@functools.lru_cache(maxsize=64)
def _table(beta: float, length: int, device: torch.device) -> torch.Tensor:
    """`hidden_keys` on a device, copied there once: each copy would wait for the GPU."""
    return torch.tensor(hidden_keys(beta, length), device=device)


def hidden_keys(beta: float, length: int) -> tuple[int, ...]:
    """How many keys are masked out of 0, 1, ..., `length`; the numbers never decrease."""
    return tuple(max(0, min(max(1, round(beta * keys)), keys - 1)) for keys in range(length + 1))


def spread(score: torch.Tensor, pairs: torch.Tensor) -> torch.Tensor:
    """The standard deviation of the scores of all pairs; a scalar above 0. Unlike indexing, it does not stall a GPU."""
    count = pairs.sum()
    mean = (score * pairs).sum() / count.clamp(min=1)
    squares = ((score - mean) ** 2 * pairs).sum()
    return (squares / (count - 1).clamp(min=1)).sqrt().clamp(min=torch.finfo(score.dtype).tiny)
