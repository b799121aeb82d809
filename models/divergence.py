"""How far two predictions on a batch are apart: the loss that ASA, R-Drop and the other baselines add (section 3.3).

Shapes: B examples, L tokens, V words of a vocabulary.
"""

import torch
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

IGNORED_LABEL = -100  # of a position without a label, as everywhere in Hugging Face and PyTorch


def zero_without_labels(task_loss: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The backbone's mean over labels, or 0 where a batch of sentences has no labelled word: it is no number there."""
    return torch.where(((labels != IGNORED_LABEL) | labels.is_floating_point()).any(), task_loss, 0.0)


def divergence(
    config,
    p: torch.Tensor,
    q: torch.Tensor,
    labels: torch.Tensor,
    protocol: str = "corrected",
    of_words: bool = False,
) -> torch.Tensor:
    """How far two predictions on a batch are apart, a mean over its examples; neither side is detached (section 3.3).

    Half of KL(p||q) + KL(q||p); of token classification, summed over the labelled positions of a sentence; of a
    regression, the mean squared difference, also over its outputs. "release" sums over every position, and takes a
    regression's predictions for a distribution over the batch; it has none of several outputs. Of masked words, which
    the release does not have either, it is a mean over these words.

    Args:
        config: the backbone's.
        p, q: logits, (B, classes), (B, outputs) of a regression, or (B, L, classes).
        labels: those of the batch.
        of_words: the predictions are of masked words, which alone have a label.

    Raises:
        ValueError: a multi-label classification, for which no divergence is defined; "release" and a regression with
            several outputs.
    """
    if not of_words and config.problem_type == "multi_label_classification":
        raise ValueError("no divergence is defined for multi-label classification")
    if not of_words and is_regression(config, p, labels):
        if protocol == "corrected":
            return F.mse_loss(p.to(_at_least_float32(p)), q.to(_at_least_float32(q)))
        if p.shape[-1] > 1:
            raise ValueError('protocol "release" has no regression with several outputs: take "corrected"')
        p, q = p.T, q.T
        return symmetric_kl(p, q) / p.shape[-1]
    # Made equal where there is no label, and not picked by it: a GPU would have to be waited for.
    ignored = (labels == IGNORED_LABEL).unsqueeze(-1)
    if of_words:
        # Computed again in the backward pass: of a whole vocabulary six tensors of this size would have to be kept.
        apart = checkpoint(_kl_but, ignored, p, q, use_reentrant=False, preserve_rng_state=False)
        return apart / (~ignored).sum().clamp(min=1)
    if p.ndim == 3 and protocol == "corrected":  # one prediction per token
        return _kl_but(ignored, p, q) / len(labels)
    return symmetric_kl(p, q) / len(labels)


def is_regression(config, p: torch.Tensor, labels: torch.Tensor) -> bool:
    """Whether predictions are numbers, one or several for each example, and no classes' or choices' logits."""
    numbers = labels.is_floating_point()
    several = numbers and config.problem_type == "regression"
    one = p.shape[-1] == 1 and (numbers or config.num_labels == 1)  # and not a question with one choice
    return p.ndim == 2 and (one or several)


def _kl_but(ignored: torch.Tensor, p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """`symmetric_kl` without the rows (..., 1) that are ignored."""
    return symmetric_kl(p.masked_fill(ignored, 0.0), q.masked_fill(ignored, 0.0))


def labelled_alone(
    p: torch.Tensor, q: torch.Tensor, labels: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Of two predictions (B, L, V) and the labels (B, L), what has a label: (N, V) twice, and (N,).

    It waits for a GPU, but of a whole vocabulary the divergence would keep six tensors of that size for every position.
    """
    labelled = labels != IGNORED_LABEL
    return p[labelled], q[labelled], labels[labelled]


def symmetric_kl(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """Half of KL(p||q) + KL(q||p), summed over rows, in float32; logits (..., classes)."""
    p, q = (F.log_softmax(logits, -1, dtype=_at_least_float32(logits)) for logits in (p, q))
    return 0.5 * ((p.exp() - q.exp()) * (p - q)).sum()


def _at_least_float32(tensor: torch.Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)
