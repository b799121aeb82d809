"""The row budget: a rule for ASA's masks under which the adversary cannot be switched off.

Under ASA's own rule the adversary decides how much it masks, and is paid for masking nothing: its masks open. Here
every query row hides a fixed share of its keys, those with the lowest scores, so that all an adversary has to decide is
which. There is no penalty. A hidden key keeps a small weight, and with it a gradient: it can come back.
docs/row_budget.md has the reasons, and `AsaModel(backbone, budget=0.1)` uses the rule.
"""

import math

import torch

EPS = 1e-4


class RowBudget:
    """Hides k = max(1, round(beta n)) of the n keys that a real query sees, n - 1 at most; of one key, none.

    Args:
        beta: the share of the keys that is hidden.
        eps: what the attention weight of a hidden key is multiplied by, before the row is normalised.

    Attributes:
        hidden_score: what is added to the attention score of a hidden key: log of eps.

    Raises:
        ValueError: beta is no share.
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

        The bias is 0 on kept keys and `hidden_score` on others. With g its gradient, that of a score is
        -g w sigma'((score - threshold) / s), s being the standard deviation of the scores of all pairs, and w 1 / eps
        for a hidden key and 1 for others: the bias is the logarithm of a gate z in {eps, 1} that multiplies the
        attention weight, and g / z is the gradient of z. The sign reverses it: the adversary ascends.
        """
        with torch.no_grad():
            pairs = visible & real_query
            above = score - self.thresholds(score, pairs)
            kept = (above > 0) & visible
            gate = (above / spread(score, pairs)).sigmoid()
            unmasked = kept | ~kept.any(-1, keepdim=True)  # a row of which nothing is kept stays as it is
            slope = gate * (1 - gate) * torch.where(unmasked, 1.0, 1 / self.eps) * pairs
            keep = kept.to(score.dtype)
            bias = (1 - keep) * self.hidden_score
        return keep, bias - slope * (score - score.detach())

    def thresholds(self, score: torch.Tensor, pairs: torch.Tensor) -> torch.Tensor:
        """What a key's score (B, L, L) has to be above to be kept, (B, L, 1)."""
        return thresholds(score, pairs, self.beta)


def thresholds(score: torch.Tensor, pairs: torch.Tensor, beta: float) -> torch.Tensor:
    """(B, L, 1): midway between the k-th and the next lowest score of a row's pairs; -inf where none is to be hidden.

    Equal scores share a fate: of several at the threshold all are hidden, which is then more than k.
    """
    keys = pairs.sum(-1, keepdim=True)
    table = hidden_keys(beta, score.shape[-1])
    hidden = torch.tensor(table, device=score.device)[keys]  # (B, L, 1)
    lowest = score.masked_fill(~pairs, torch.inf).topk(table[-1] + 1, largest=False).values
    below, above = lowest.gather(-1, (hidden - 1).clamp(min=0)), lowest.gather(-1, hidden)
    middle = (below + above) / 2
    middle = torch.where(middle < above, middle, below)  # of two numbers with none between them
    return torch.where(hidden > 0, middle, -torch.inf)


def hidden_keys(beta: float, length: int) -> tuple[int, ...]:
    """How many of 0, 1, ..., `length` keys are hidden: of more keys, as many or more."""
    return tuple(max(0, min(max(1, round(beta * keys)), keys - 1)) for keys in range(length + 1))


def spread(score: torch.Tensor, pairs: torch.Tensor) -> torch.Tensor:
    """The standard deviation of the scores of all pairs; a scalar above 0. No GPU is waited for, as an index would."""
    count = pairs.sum()
    mean = (score * pairs).sum() / count.clamp(min=1)
    squares = ((score - mean) ** 2 * pairs).sum()
    return (squares / (count - 1).clamp(min=1)).sqrt().clamp(min=torch.finfo(score.dtype).tiny)
