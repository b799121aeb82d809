"""A program for one process or two: an `AsaTrainer` that trains a tagger, whose rows have unequal numbers of labels.

main([FOLDER, ROWS]) trains with so many rows at a time in each process, and with accumulation, evaluates with a loss
function of its own, and leaves what it logged and the weights as FOLDER/logs.json and FOLDER/weights.pt.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from conftest import tiny_backbone
from torch import nn
from trainers import trainer_of

from models.asa import AsaModel
from utils import never_destroy


def summed(output, labels: torch.Tensor, num_items_in_batch: torch.Tensor) -> torch.Tensor:
    """The mean over labels as a loss function for accumulation has it: the part's sum over the whole batch's number."""
    logits = output.logits.flatten(0, 1)
    return nn.functional.cross_entropy(logits, labels.flatten(), reduction="sum") / num_items_in_batch


def main(argv: Sequence[str]) -> None:
    folder, rows = argv
    settings = {"per_device_train_batch_size": int(rows), "gradient_accumulation_steps": 2, "num_train_epochs": 1}
    settings |= {"per_device_eval_batch_size": 4 * int(rows)}
    model = AsaModel(tiny_backbone(head="token"), tau=0.2)
    trainer = trainer_of(model, folder, head="token", compute_loss_func=summed, **settings)
    trainer.train()
    trainer.evaluate()
    if trainer.is_world_process_zero():
        (Path(folder) / "logs.json").write_text(json.dumps(trainer.state.log_history))
        torch.save(model.state_dict(), Path(folder) / "weights.pt")
    never_destroy(trainer.model_wrapped)  # as the scripts do: its destructor may wait for ever for a thread of gloo
    trainer.accelerator.end_training()
