"""What a part of a batch adds to the loss and to the figures of the whole, so that parts add up to it exactly."""

import torch

# What a training output may hold beside its losses, averaged over steps for the log.
REPORTED = ("divergence", "penalty", "keep_rate", "fully_masked")

Share = tuple[int | torch.Tensor, int | torch.Tensor]  # (how many the part has, how many the whole batch has)


def weighted_loss(output, examples: Share, labels: Share, *, of_words: bool = False) -> torch.Tensor:
    """What a part of a batch adds to the loss of the whole, so that parts add up to it exactly.

    Args:
        output: of a method's module in training mode, on the part.
        examples: the share of the batch's examples, over which divergence and penalty are means.
        labels: the share of its labels, over which a task loss is a mean; an example may have several.
        of_words: the labels are masked words, over which the divergence is a mean, too.
    """
    if "task_loss" not in output:
        return of_labels(output.loss, labels)
    if of_words and "divergence" in output:
        over_labels = output.task_loss + output.divergence
        return of_labels(over_labels, labels) + _of(output.loss - over_labels, examples)
    return of_labels(output.task_loss, labels) + _of(output.loss - output.task_loss, examples)


def figures(output, examples: Share, labels: Share, *, of_words: bool = False) -> dict[str, torch.Tensor]:
    """What a part of a batch adds to the figures in the log: a scalar each, or one figure a layer.

    `train_loss` is the figure that is printed: without ASA's penalty, as in the release.
    """
    task_loss = of_labels(output.get("task_loss", output.loss).detach(), labels)
    means = {name: _of(output[name].detach(), examples) for name in REPORTED if name in output}
    if of_words and "divergence" in output:
        means["divergence"] = of_labels(output.divergence.detach(), labels)
    return {"train_loss": task_loss + means.get("divergence", 0.0), "task_loss": task_loss, **means}


def of_labels(mean: torch.Tensor, share: Share) -> torch.Tensor:
    """What a part's mean over labels adds to that of the whole: 0 where it has none, and the mean is not a number."""
    return torch.where(torch.as_tensor(share[0], device=mean.device) > 0, _of(mean, share), 0.0)


def _of(mean: torch.Tensor, share: Share) -> torch.Tensor:
    part, whole = share
    return mean * part / whole
