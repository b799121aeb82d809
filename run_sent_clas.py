"""Sentence and sentence-pair tasks: GLUE, ANLI and PAWS-QQP.

python run_sent_clas.py --do_train --do_eval --task_name SST-2 --load_model_path all-MiniLM-L6-v2 --output_dir sst
"""

import argparse
from collections.abc import Sequence

import numpy as np
from transformers import AutoModelForSequenceClassification, DataCollatorWithPadding

import arguments
from data import metrics
from data.batches import padding
from data.cache import cached
from data.features import sentence_features
from data.submission import write_submission
from data.tasks import SENTENCE_TASKS, find_task
from models.encoders import named_labels
from training import Head, execute, prepare
from utils import run_script


def main(argv: Sequence[str] | None = None) -> None:
    """Train, evaluate and test as the arguments say.

    Raises:
        InputError: something given cannot be used; nothing has been written then.
    """
    args = parse_arguments(argv)
    task = find_task(args.task_name, SENTENCE_TASKS)
    args.task_name = task.name
    changes = {"num_labels": 1, "problem_type": "regression"} if task.regression else named_labels(task.labels)
    examples, config, tokenizer = prepare(args, task, changes)
    features = examples.map(
        cached(args.token_cache_dir, sentence_features, tokenizer, max_seq_length=args.max_seq_length)
    )

    def predictions(logits: list[np.ndarray]) -> np.ndarray:
        return np.concatenate(logits) if task.regression else metrics.best_class(logits)

    head = Head(
        AutoModelForSequenceClassification,
        collate=DataCollatorWithPadding(tokenizer, **padding(args)),
        score=lambda rows, logits: metrics.compute(task.metrics, rows.columns["labels"][:], predictions(logits)),
        write=lambda path, rows, logits: write_submission(path, task, rows.examples, predictions(logits)),
    )
    execute(args, task, head, config, tokenizer, features)


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The arguments, with this script's defaults (those of the release)."""
    parser = arguments.build_parser(
        "Fine-tune, evaluate and test an encoder on a sentence or sentence-pair task.",
        SENTENCE_TASKS,
        train_batch_size=32,
        eval_batch_size=128,
        learning_rate=1e-5,
        warmup_proportion=0.06,
        weight_decay=0.01,
    )
    return arguments.parse(parser, argv)


if __name__ == "__main__":
    run_script(main)
