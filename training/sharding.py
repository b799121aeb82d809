"""--fsdp: each process keeps a part of every parameter, of its gradient and of the optimizer's figures for it.

For encoders whose training does not fit one GPU. It is PyTorch's `fully_shard` (FSDP2), called here and not by
Accelerate, which prepares a model so on accelerators alone: this is the same on CPU, where the tests run. A layer's
parameters are gathered when it is called, and let go after it.
"""

import copy
from collections.abc import Mapping

import torch
from accelerate import Accelerator
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from models.checkpoints import backbone_of
from models.encoder_types import encoder_layers


def shard(model: nn.Module, accelerator: Accelerator) -> nn.Module | None:
    """Leave each process its part of a model, which every process has made alike; to be called by all of them.

    Returns:
        On the main process a whole copy, on the CPU, for `gather` to write to; on the others None.
    """
    whole = copy.deepcopy(model) if accelerator.is_main_process else None
    # In the run's precision, and not wrapped: its parameters stay on the CPU until they are cut up.
    accelerator.prepare_model(model, device_placement=False, evaluation_mode=True)
    mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
    adversaries = [each for each in getattr(model, "adversaries", []) if each is not None]
    for module in (*encoder_layers(backbone_of(model)), *adversaries, model):
        # The outermost too: else it stays whole after an evaluation, and the optimizer gets the wrong parameters.
        fully_shard(module, mesh=mesh, reshard_after_forward=True)
    return whole


def is_sharded(model: nn.Module) -> bool:
    return isinstance(model, FSDPModule)


def whole_tensor(tensor: torch.Tensor) -> torch.Tensor:
    """All of a tensor of which this process may have a part; then to be called by every process."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def whole_tensors(tensors: Mapping[str, torch.Tensor], keep: bool) -> dict[str, torch.Tensor]:
    """All of each tensor, on a process that is to `keep` them; none on any other. A part's whole is on the CPU.

    To be called by every process. One tensor at a time is put together.
    """
    found = {}
    for name, tensor in tensors.items():
        whole = whole_tensor(tensor.detach())
        if keep:
            found[name] = whole.cpu() if isinstance(tensor, DTensor) else whole
    return found


def copy_whole(tensor: torch.Tensor, whole: torch.Tensor, everywhere: bool = True) -> None:
    """Write all of a tensor to one of which this process may have a part.

    Args:
        everywhere: every process has the whole; else the main one does, and all have to call.
    """
    if isinstance(tensor, DTensor):
        source = None if everywhere else 0
        whole = distribute_tensor(
            whole.to(tensor.device, tensor.dtype), tensor.device_mesh, tensor.placements, src_data_rank=source
        )
    with torch.no_grad():
        tensor.copy_(whole)
        if not everywhere and not isinstance(tensor, DTensor):  # a buffer, of which each process has the whole
            torch.distributed.broadcast(tensor, 0)


def gather(model: nn.Module, whole: nn.Module | None) -> None:
    """Write a sharded model's weights to the whole copy; to be called by every process."""
    found = whole_tensors(model.state_dict(), keep=whole is not None)
    if whole is not None:
        whole.load_state_dict(found)


def scatter(whole: nn.Module | None, model: nn.Module) -> None:
    """Write the whole copy's weights to the sharded model; to be called by every process."""
    weights = {} if whole is None else whole.state_dict()
    for name, tensor in model.state_dict().items():
        copy_whole(tensor, weights[name] if weights else torch.empty(tensor.shape), everywhere=False)


def most(count: int, accelerator: Accelerator) -> int:
    """The greatest of the processes' counts: all of them have to call a sharded model equally often."""
    counts = torch.tensor(count, device=accelerator.device)
    torch.distributed.all_reduce(counts, torch.distributed.ReduceOp.MAX)
    return int(counts)


def no_gradients(model: nn.Module):
    """The context for an evaluation; what is gathered in inference mode could not be trained afterwards."""
    return torch.no_grad() if is_sharded(model) else torch.inference_mode()
