"""Short trainings of small models with `AsaTrainer`."""

import torch
from conftest import tiny_batch
from datasets import Dataset
from transformers import TrainingArguments

from models.trainer import AsaTrainer

ROWS = 16


def rows(head: str = "sequence") -> Dataset:
    """Rows of 3 to 10 tokens, and a column that no model takes."""
    batch = tiny_batch(head, lengths=[3 + 5 * row % 8 for row in range(ROWS)])
    columns = {name: values.tolist() for name, values in batch.items()}
    return Dataset.from_dict(columns | {"text": ["a film"] * len(batch["labels"])})


def batches(head: str, size: int) -> list[dict[str, torch.Tensor]]:
    whole = tiny_batch(head, lengths=[3 + 5 * row % 8 for row in range(ROWS)])
    return [{name: values[at : at + size] for name, values in whole.items()} for at in range(0, ROWS, size)]


def trainer_of(
    model, folder, callback=None, head: str = "sequence", compute_loss_func=None, adversary_rate=None, **settings
) -> AsaTrainer:
    """Two epochs of sixteen rows in order, four a step."""
    settings = {
        "per_device_train_batch_size": 4,
        "num_train_epochs": 2,
        "learning_rate": 1e-2,
        "weight_decay": 0.1,
        "train_sampling_strategy": "sequential",
        "logging_steps": 1,
        "save_strategy": "no",
    } | settings
    given = TrainingArguments(str(folder), use_cpu=True, report_to="none", disable_tqdm=True, **settings)
    return AsaTrainer(
        model,
        given,
        train_dataset=rows(head),
        eval_dataset=rows(head),
        callbacks=[callback] if callback else None,
        compute_loss_func=compute_loss_func,
        adversary_learning_rate=adversary_rate,
        compute_metrics=lambda found: {"accuracy": (found.predictions.argmax(-1) == found.label_ids).mean().item()},
    )


def logged(trainer: AsaTrainer, name: str) -> list[float]:
    """A figure of each record that has it; the Trainer adds the losses up in float32."""
    return [record[name] for record in trainer.state.log_history if name in record]
