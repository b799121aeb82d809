"""--fsdp: each process keeps a shard of every parameter, of its gradient and of its optimizer state.

This is for encoders whose training does not fit on one GPU. PyTorch's `fully_shard` (FSDP2) is called directly, because
Accelerate supports it only on accelerators; here it also works on CPU, where the tests run. A layer's parameters are
gathered when it is called, and freed after it.
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
    """Shard a model, which every process has built identically; every process must call this.

    Returns:
        On the main process, a whole copy on the CPU, for `gather` to write to; on the others, None.
    """
    whole = copy.deepcopy(model) if accelerator.is_main_process else None
    # Sets the run's precision without wrapping the model: its parameters stay on the CPU until they are sharded.
    accelerator.prepare_model(model, device_placement=False, evaluation_mode=True)
    mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
    adversaries = [each for each in getattr(model, "adversaries", []) if each is not None]
    for module in (*encoder_layers(backbone_of(model)), *adversaries, model):
        # The outermost module too: otherwise it stays whole after an evaluation, and the optimizer gets wrong
        # parameters.
        fully_shard(module, mesh=mesh, reshard_after_forward=True)
    return whole


def is_sharded(model: nn.Module) -> bool:
    return isinstance(model, FSDPModule)


def whole_tensor(tensor: torch.Tensor) -> torch.Tensor:
    """The whole of a tensor that may be sharded; if it is, every process must call this."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def whole_tensors(tensors: Mapping[str, torch.Tensor], keep: bool) -> dict[str, torch.Tensor]:
    """The whole of each tensor if `keep` is set on this process, else none. Sharded tensors are gathered to the CPU.

    Every process must call this. The tensors are gathered one at a time.
    """
    found = {}
    for name, tensor in tensors.items():
        whole = whole_tensor(tensor.detach())
        if keep:
            found[name] = whole.cpu() if isinstance(tensor, DTensor) else whole
    return found


def copy_whole(tensor: torch.Tensor, whole: torch.Tensor, everywhere: bool = True) -> None:
    """Copy a whole tensor to one that may be sharded.

    Args:
        everywhere: whether every process has `whole`; if only the main process has it, all must call this.
    """
    if isinstance(tensor, DTensor):
        source = None if everywhere else 0
        whole = distribute_tensor(
            whole.to(tensor.device, tensor.dtype), tensor.device_mesh, tensor.placements, src_data_rank=source
        )
    with torch.no_grad():
        tensor.copy_(whole)
        if not everywhere and not isinstance(tensor, DTensor):  # a buffer, which is not sharded
            torch.distributed.broadcast(tensor, 0)


def gather(model: nn.Module, whole: nn.Module | None) -> None:
    """Copy a sharded model's weights to the whole copy; every process must call this."""
    found = whole_tensors(model.state_dict(), keep=whole is not None)
    if whole is not None:
        whole.load_state_dict(found)


def scatter(whole: nn.Module | None, model: nn.Module) -> None:
    """Copy the whole copy's weights to the sharded model; every process must call this."""
    weights = {} if whole is None else whole.state_dict()
    for name, tensor in model.state_dict().items():
        copy_whole(tensor, weights[name] if weights else torch.empty(tensor.shape), everywhere=False)


def most(count: int, accelerator: Accelerator) -> int:
    """The largest count of any process: all must call a sharded model equally often."""
    counts = torch.tensor(count, device=accelerator.device)
    torch.distributed.all_reduce(counts, torch.distributed.ReduceOp.MAX)
    return int(counts)


def no_gradients(model: nn.Module):
    """The context for an evaluation; parameters gathered in inference mode could not be trained afterwards."""
    return torch.no_grad() if is_sharded(model) else torch.inference_mode()
