"""The divergence between two predictions, which ASA, R-Drop and other baselines add to the loss.

Shapes: B examples, L tokens, V words of a vocabulary.
"""

import torch
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

IGNORED_LABEL = -100  # for a position without a label, as everywhere in Hugging Face and PyTorch


def zero_without_labels(task_loss: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The task loss, or 0 if no token in the batch has a label: the mean over labels is nan then."""
    return torch.where(((labels != IGNORED_LABEL) | labels.is_floating_point()).any(), task_loss, 0.0)


def divergence(
    config,
    p: torch.Tensor,
    q: torch.Tensor,
    labels: torch.Tensor,
    protocol: str = "corrected",
    of_words: bool = False,
) -> torch.Tensor:
    """The divergence between two predictions on a batch, a mean over its examples; neither side is detached.

    It is half of KL(p||q) + KL(q||p). For token classification, it is summed over the labelled positions of a sentence.
    For a regression, it is the mean squared difference, also over several outputs. For masked language modelling, which
    the release does not have, it is a mean over the masked words. "release" sums over every position, and treats a
    regression's predictions as a distribution over the batch; it does not cover several outputs.

    Args:
        config: the backbone's configuration.
        p, q: logits: (B, classes), (B, outputs) for a regression, or (B, L, classes).
        labels: the labels of the batch.
        of_words: whether these are predictions of masked words; only those have a label.

    Raises:
        ValueError: multi-label classification, for which no divergence is defined, or a regression with several outputs
            under "release".
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
    # The two are made equal where there is no label: selecting the labelled ones by index would stall a GPU.
    ignored = (labels == IGNORED_LABEL).unsqueeze(-1)
    if of_words:
        # Recomputed in the backward pass: with a whole vocabulary, six tensors of this size would have to be kept.
        apart = checkpoint(_kl_but, ignored, p, q, use_reentrant=False, preserve_rng_state=False)
        return apart / (~ignored).sum().clamp(min=1)
    if p.ndim == 3 and protocol == "corrected":  # one prediction per token
        return _kl_but(ignored, p, q) / len(labels)
    return symmetric_kl(p, q) / len(labels)


def is_regression(config, p: torch.Tensor, labels: torch.Tensor) -> bool:
    """Whether predictions are one or several numbers per example, rather than the logits of classes or choices."""
    numbers = labels.is_floating_point()
    several = numbers and config.problem_type == "regression"
    one = p.shape[-1] == 1 and (numbers or config.num_labels == 1)  # not a question with a single choice
    return p.ndim == 2 and (one or several)


def _kl_but(ignored: torch.Tensor, p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """`symmetric_kl` without the `ignored` rows (..., 1)."""
    return symmetric_kl(p.masked_fill(ignored, 0.0), q.masked_fill(ignored, 0.0))


def labelled_alone(
    p: torch.Tensor, q: torch.Tensor, labels: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The positions with a label, of two predictions (B, L, V) and the labels (B, L): (N, V) twice, and (N,).

    This stalls a GPU, but with a whole vocabulary the divergence would otherwise keep both predictions whole.
    """
    labelled = labels != IGNORED_LABEL
    return p[labelled], q[labelled], labels[labelled]


def symmetric_kl(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """Half of KL(p||q) + KL(q||p), summed over rows, in float32; logits (..., classes)."""
    p, q = (F.log_softmax(logits, -1, dtype=_at_least_float32(logits)) for logits in (p, q))
    return 0.5 * ((p.exp() - q.exp()) * (p - q)).sum()


def _at_least_float32(tensor: torch.Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)
