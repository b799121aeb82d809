"""What ASA is compared with: published ways to regularise fine-tuning, one module each.

Each is a module around the backbone, as `AsaModel` is: in training mode `forward(**batch)` makes the step's loss, and
in evaluation mode it is the backbone. `loss` is `task_loss` + `divergence`, the latter as it is weighted there. The
divergence of two predictions is ASA's own (`models.asa.divergence`), so that all methods have the same idea of it for
sentences, choices, words and regressions.
"""

from dataclasses import dataclass

import torch
from torch import nn
from transformers.utils import ModelOutput

from models.asa import divergence, twice, zero_without_labels


@dataclass
class RivalOutput(ModelOutput):
    """What the methods of this file return in training mode.

    loss: task_loss + divergence; scalar, the figure to call `backward` on.
    logits: predictions of the pass without noise, in the backbone's own shape.
    task_loss: the mean over labels; scalar.
    divergence: what the method adds, with its weights, the mean over examples; scalar.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    task_loss: torch.Tensor | None = None
    divergence: torch.Tensor | None = None


class Rival(nn.Module):
    """The frame: `step` in training mode, the backbone in evaluation mode."""

    def __init__(self, backbone: nn.Module):
        super().__init__()
        self.backbone = backbone

    def forward(self, **batch):
        """Raises `ValueError` in training without labels."""
        if not self.training:
            return self.backbone(**batch)
        if batch.get("labels") is None:
            raise ValueError("training needs labels in the batch")
        return self.step(**batch | {"return_dict": True})

    def step(self, labels: torch.Tensor, **batch) -> ModelOutput:
        raise NotImplementedError


class RDrop(Rival):
    """R-Drop: the predictions under two draws of dropout should agree.

    Liang, Wu, Li, Wang, Meng, Qin, Chen, Zhang, Liu: R-Drop: Regularized Dropout for Neural Networks, NeurIPS 2021,
    arXiv 2106.14448, equations 2 to 4 and algorithm 1.

    loss = (task_1 + task_2) / 2 + alpha * (KL(p_1||p_2) + KL(p_2||p_1)) / 2, means over the batch, both sides with
    their gradient: the convention of the authors' code. The paper's equation 4 sums the two task losses, so that its
    alpha is twice the one here. As in the paper, the two passes are one over the batch repeated.

    Args:
        alpha: weight of the divergence; of a regression, of the mean squared difference.
    """

    def __init__(self, backbone: nn.Module, alpha: float):
        super().__init__(backbone)
        self.alpha = alpha

    def step(self, labels: torch.Tensor, **batch) -> RivalOutput:
        output = self.backbone(**twice(batch, len(labels)), labels=torch.cat((labels, labels)))
        first, second = output.logits.chunk(2)
        task_loss = zero_without_labels(output.loss, labels)
        apart = self.alpha * divergence(self.backbone.config, first, second, labels)
        return RivalOutput(loss=task_loss + apart, logits=first, task_loss=task_loss, divergence=apart)
