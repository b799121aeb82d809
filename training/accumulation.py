"""The contribution of a part of a batch to the batch's loss and figures, weighted so that the parts add up exactly."""

import torch

# Further figures that a training output may have, averaged over steps for the log.
REPORTED = ("divergence", "penalty", "keep_rate", "fully_masked")

Share = tuple[int | torch.Tensor, int | torch.Tensor]  # (how many the part has, how many the whole batch has)


def weighted_loss(output, examples: Share, labels: Share, *, of_words: bool = False) -> torch.Tensor:
    """The contribution of a part of a batch to the batch's loss; the parts add up to it exactly.

    Args:
        output: output of a method's module in training mode, for the part.
        examples: the part's share of the batch's examples; divergence and penalty are means over examples.
        labels: the part's share of the batch's labels; the task loss is a mean over labels. An example may have
            several.
        of_words: whether the labels are masked words; then the divergence is a mean over labels too.
    """
    if "task_loss" not in output:
        return of_labels(output.loss, labels)
    if of_words and "divergence" in output:
        over_labels = output.task_loss + output.divergence
        return of_labels(over_labels, labels) + _of(output.loss - over_labels, examples)
    return of_labels(output.task_loss, labels) + _of(output.loss - output.task_loss, examples)


def figures(output, examples: Share, labels: Share, *, of_words: bool = False) -> dict[str, torch.Tensor]:
    """The contribution of a part of a batch to the logged figures: a scalar each, or one number per layer.

    `train_loss` is the printed loss: without ASA's penalty, as in the release.
    """
    task_loss = of_labels(output.get("task_loss", output.loss).detach(), labels)
    means = {name: _of(output[name].detach(), examples) for name in REPORTED if name in output}
    if of_words and "divergence" in output:
        means["divergence"] = of_labels(output.divergence.detach(), labels)
    return {"train_loss": task_loss + means.get("divergence", 0.0), "task_loss": task_loss, **means}


def of_labels(mean: torch.Tensor, share: Share) -> torch.Tensor:
    """The contribution of a part's mean over labels to the batch's mean: 0 without labels, when the mean is nan."""
    return torch.where(torch.as_tensor(share[0], device=mean.device) > 0, _of(mean, share), 0.0)


def _of(mean: torch.Tensor, share: Share) -> torch.Tensor:
    part, whole = share
    return mean * part / whole
