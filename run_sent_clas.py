"""Sentence and sentence-pair tasks: GLUE, ANLI, PAWS-QQP, HANS, and your own files.

python run_sent_clas.py --do_train --do_eval --task_name SST-2 --load_model_path all-MiniLM-L6-v2 --output_dir sst
"""

import functools
from collections.abc import Sequence

from data.classes import model_classes
from data.own import task_of
from data.tasks import SENTENCE_TASKS
from training import arguments
from utils import run_script


def main(argv: Sequence[str] | None = None) -> None:
    """Train, evaluate and predict, as the arguments request.

    Raises:
        InputError: an argument or an input file cannot be used, and nothing but caches has been written; or training
            cannot go on: its loss is not finite, or memory or disk is full.
        Interrupted: by SIGTERM or Ctrl-C in training; the state has been saved.
    """
    args = arguments.of_script("run_sent_clas", argv)
    task = task_of(args, SENTENCE_TASKS)
    args.task_name = task.name
    # Imported here because they take seconds to load: --help and argument errors do not have to wait for them.
    import numpy as np
    from transformers import AutoModelForSequenceClassification, DataCollatorWithPadding

    from data import metrics
    from data.batches import padding, without_labels
    from data.cache import cached
    from data.features import Features, sentence_features
    from data.submission import write_submission
    from models.checkpoints import saved_classes
    from models.heads import named_labels
    from training.evaluation import Head
    from training.run import execute, prepare

    classes = task.labels
    if task.counts_as and not args.do_train:  # the model was trained on another task
        model_file = args.test_model_file
        classes = model_classes(task, saved_classes(model_file), f"--test_model_file {model_file}")
    examples, config, tokenizer = prepare(args, task, named_labels(classes))
    features = examples.map(
        cached(args.token_cache_dir, sentence_features, tokenizer, max_seq_length=args.max_seq_length)
    )

    known = [task.labels.index(task.counts_as.get(word.lower(), word)) for word in classes]
    counts_as = np.array([*known, metrics.NO_CLASS])  # NO_CLASS maps to itself: it is -1, the last index

    def predictions(logits: list[np.ndarray]) -> np.ndarray:
        return np.concatenate(logits) if task.regression else counts_as[metrics.best_class(logits)]

    def in_labels(logits: list[np.ndarray]) -> list[np.ndarray]:
        """For each label, the highest logit among the classes that count as that label."""
        of_label = [[place for place, label in enumerate(known) if label == each] for each in range(len(task.labels))]
        return [np.array([row[places].max() for places in of_label]) for row in logits]

    def score(rows: Features, logits: list[np.ndarray]) -> dict[str, float]:
        labels, predicted = rows.columns["labels"][:], predictions(logits)
        scores = metrics.compute(task.metrics, labels, predicted)
        if task.groups:
            scores |= metrics.by_group(labels, predicted, task.labels, [example.groups for example in rows.examples])
        return scores

    collate = DataCollatorWithPadding(tokenizer, **padding(args))
    head = Head(
        AutoModelForSequenceClassification,
        collate=functools.partial(without_labels, collate) if task.counts_as else collate,
        score=score,
        write=lambda path, rows, logits: write_submission(path, task, rows.examples, predictions(logits), logits),
        in_labels=in_labels if task.counts_as else None,
    )
    execute(args, task, head, config, tokenizer, features)


if __name__ == "__main__":
    run_script(main)
