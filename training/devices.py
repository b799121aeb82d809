"""The device and precision of a run, and the processes that share its work."""

import argparse
import os
from datetime import timedelta

import torch
from accelerate import Accelerator, DistributedType, InitProcessGroupKwargs

from utils import InputError, counted, log

# How long processes wait for one that writes or checks a large state; by default NCCL ends them after 10 minutes.
PATIENCE = timedelta(hours=2)
# Distributed types under which a process does not have the whole model.
SHARDED = (DistributedType.FSDP, DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM)


def make_accelerator(args: argparse.Namespace) -> Accelerator:
    """An `Accelerator` with the requested device and precision; what the machine lacks is logged.

    Raises:
        InputError: the GPU cannot be used, or there are several processes, and they cannot share the work.
    """
    on_gpu = torch.cuda.is_available() and not args.no_cuda
    precision = "fp16" if args.fp16 else "bf16" if args.bf16 else "no"
    if precision == "fp16" and not on_gpu:
        precision = "bf16" if has_bf16() else "no"
        log.info(f"--fp16 needs a CUDA GPU: going on in {'bf16' if precision == 'bf16' else 'fp32'}")
    # On CPU, several processes find each other only if `cpu` is set.
    cpu = args.no_cuda or not torch.accelerator.is_available()
    try:
        accelerator = Accelerator(
            cpu=cpu, mixed_precision=precision, kwargs_handlers=[InitProcessGroupKwargs(timeout=PATIENCE)]
        )
    except NotImplementedError as error:  # some GPUs with an old driver, of which it says what to set
        raise InputError(f"this GPU cannot be used: {' '.join(str(error).split())}") from None
    if precision == "bf16" and on_gpu and not torch.cuda.is_bf16_supported(including_emulation=False):
        log.warning("--bf16: this GPU only emulates it, which is slow: --fp16 is faster")
    # Overrides the environment, by whose value every loss would be divided: the parts of a step are already weighted.
    accelerator.gradient_accumulation_steps = 1
    started = int(os.environ.get("WORLD_SIZE", 1))
    if accelerator.num_processes != started:
        raise InputError(f"{started} processes cannot share this device ({accelerator.device}): add --no_cuda")
    if accelerator.distributed_type in SHARDED:
        how = accelerator.distributed_type.value
        raise InputError(f"{how}: launch with plain data parallelism, and add --fsdp where a GPU cannot hold the model")
    return accelerator


def check_processes(args: argparse.Namespace) -> None:
    """Raise `InputError` if there are more processes than GPUs."""
    here, gpus = int(os.environ.get("LOCAL_WORLD_SIZE", 1)), torch.cuda.device_count()
    if torch.cuda.is_available() and not args.no_cuda and here > gpus:  # which NCCL does not allow
        raise InputError(f"{here} processes cannot share {counted(gpus, 'GPU')}: start fewer, or add --no_cuda")


def wait_for_all(accelerator: Accelerator) -> None:
    """Return when every process has called this."""
    if accelerator.num_processes > 1 and accelerator.device.type == "cpu":
        torch.distributed.barrier()  # Accelerate's barrier uses a GPU if there is one, even with --no_cuda
    else:
        accelerator.wait_for_everyone()


def has_bf16() -> bool:
    """Whether the CPU multiplies bfloat16 matrices in hardware."""
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))
