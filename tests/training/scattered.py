"""A program for two processes: a model in parts gets the weights of the first process's whole copy, all of them 7.

main([FOLDER]) leaves what each process then has, put together, as FOLDER/RANK.pt.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import torch
from accelerate import Accelerator
from conftest import tiny_backbone

from training.sharding import scatter, shard, whole_tensors


def main(argv: Sequence[str]) -> None:
    [folder] = argv
    accelerator = Accelerator(cpu=True)
    model = tiny_backbone("esm")  # which saves buffers
    whole = shard(model, accelerator)
    for tensor in model.state_dict().values() if whole is None else whole.state_dict().values():
        with torch.no_grad():
            tensor.fill_(7.0 if whole is not None else float("nan"))
    scatter(whole, model)
    torch.save(whole_tensors(model.state_dict(), keep=True), Path(folder) / f"{os.environ['RANK']}.pt")
    accelerator.end_training()
