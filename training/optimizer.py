"""The optimizer, its parameter groups, and the clipping of gradients."""

import torch
from torch import nn

from models import methods
from training.sharding import whole_tensor


def clip(model: nn.Module, max_norm: float) -> dict[str, torch.Tensor]:
    """Clip the gradient of the adversaries and that of everything else, each by its own norm.

    A common norm would be dominated by the adversaries: their gradient has a factor of 1e4, and its norm is often a
    hundred times the encoder's.

    Args:
        model: the module itself, without a distributed wrapper.
        max_norm: the limit for each of the two; 0 turns clipping off.

    Returns:
        The norms before clipping, on the device: `grad_norm`, and `adversary_grad_norm` if there are adversaries.
    """
    norms = {}
    for name, parameters in zip(("grad_norm", "adversary_grad_norm"), methods.adversaries_apart(model), strict=True):
        if parameters:
            gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]  # none is None
            norm = nn.utils.get_total_norm(gradients)
            if max_norm:
                nn.utils.clip_grads_with_norm_(parameters, max_norm, norm)
            norms[name] = whole_tensor(norm)
    return norms


def make_optimizer(name: str, groups: list[dict], learning_rate: float) -> torch.optim.Optimizer:
    """Fused AdamW: PyTorch's, or NVIDIA apex's ("apex_fused_adam")."""
    if name == "apex_fused_adam":
        from apex.optimizers import FusedAdam  # imported only if requested: it must be built from source

        return FusedAdam(groups, lr=learning_rate, adam_w_mode=True)
    return torch.optim.AdamW(groups, lr=learning_rate, fused=True)


def parameter_groups(model: nn.Module, weight_decay: float, adversary_learning_rate: float | None = None) -> list[dict]:
    """The parameter groups; biases and norms, which have fewer than two dimensions, get no weight decay.

    Args:
        model: the module itself, without a distributed wrapper.
        adversary_learning_rate: learning rate of the adversaries, which then have their own groups; None for the common
            one.
    """
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    apart = adversary_learning_rate is not None
    rest = [parameter for name, parameter in named if not (apart and methods.is_adversary_s(name))]
    groups = _by_decay(rest, weight_decay)
    if adversaries := [parameter for name, parameter in named if apart and methods.is_adversary_s(name)]:
        groups += [group | {"lr": adversary_learning_rate} for group in _by_decay(adversaries, weight_decay)]
    return groups


def _by_decay(parameters: list[nn.Parameter], weight_decay: float) -> list[dict]:
    return [
        {"params": [parameter for parameter in parameters if parameter.ndim >= 2], "weight_decay": weight_decay},
        {"params": [parameter for parameter in parameters if parameter.ndim < 2], "weight_decay": 0.0},
    ]
