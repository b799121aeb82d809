"""Where a run computes: its device and precision, and the processes that share the work."""

import argparse
import os

import torch
from accelerate import Accelerator, DistributedType

from utils import InputError, counted, log

# What keeps each process from having the whole model.
SHARDED = (DistributedType.FSDP, DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM)


def make_accelerator(args: argparse.Namespace) -> Accelerator:
    """An `Accelerator` with the device and precision of the arguments; the log says where the machine has less.

    Raises:
        InputError: there are several processes, and the work cannot be shared between them.
    """
    on_gpu = torch.cuda.is_available() and not args.no_cuda
    precision = "fp16" if args.fp16 else "bf16" if args.bf16 else "no"
    if precision == "fp16" and not on_gpu:
        precision = "bf16" if has_bf16() else "no"
        log.info(f"--fp16 needs a CUDA GPU: going on in {'bf16' if precision == 'bf16' else 'fp32'}")
    here, gpus = int(os.environ.get("LOCAL_WORLD_SIZE", 1)), torch.cuda.device_count()
    if on_gpu and here > gpus:  # Accelerate would have them share one, which NCCL does not allow
        raise InputError(f"{here} processes cannot share {counted(gpus, 'GPU')}: start fewer, or add --no_cuda")
    # Several processes find each other on CPU only if told that it is to be the CPU.
    cpu = args.no_cuda or not torch.accelerator.is_available()
    accelerator = Accelerator(cpu=cpu, mixed_precision=precision)
    # Not what the environment says, by which it would divide every loss: the parts of a step have their weights.
    accelerator.gradient_accumulation_steps = 1
    started = int(os.environ.get("WORLD_SIZE", 1))
    if accelerator.num_processes != started:
        raise InputError(f"{started} processes cannot share this device ({accelerator.device}): add --no_cuda")
    if accelerator.distributed_type in SHARDED:
        how = accelerator.distributed_type.value
        raise InputError(f"{how}: launch with plain data parallelism, and add --fsdp where a GPU cannot hold the model")
    return accelerator


def wait_for_all(accelerator: Accelerator) -> None:
    """Return when every process has come here."""
    if accelerator.num_processes > 1 and accelerator.device.type == "cpu":
        torch.distributed.barrier()  # Accelerate's own goes by a GPU wherever there is one, with --no_cuda too
    else:
        accelerator.wait_for_everyone()


def has_bf16() -> bool:
    """Whether the CPU multiplies bfloat16 matrices itself."""
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))
