"""Token classification: CoNLL-2003 and WNUT-2017 entities, Penn Treebank part-of-speech tags, your own files.

python run_tok_clas.py --do_train --do_eval --task_name WNUT-2017 --load_model_path all-MiniLM-L6-v2 --output_dir wnut
"""

import argparse
from collections.abc import Sequence

from data.classes import saved_labels
from data.own import task_of
from data.readers import with_labels
from data.tasks import TOKEN_TASKS
from training import arguments
from utils import log, run_script


def main(argv: Sequence[str] | None = None) -> None:
    """Train, evaluate and predict, as the arguments request.

    Raises:
        InputError: an argument or an input file cannot be used, and nothing but caches has been written; or training
            cannot go on: its loss is not finite, or memory or disk is full.
        Interrupted: by SIGTERM or Ctrl-C in training; the state has been saved.
    """
    args = arguments.of_script("run_tok_clas", argv)
    saved = None if args.do_train else saved_labels(args.test_model_file)
    task = with_labels(task_of(args, TOKEN_TASKS), args.data_dir, saved)
    args.task_name = task.name
    # Imported here because they take seconds to load: --help and argument errors do not have to wait for them.
    import numpy as np
    from transformers import AutoModelForTokenClassification, DataCollatorForTokenClassification

    from data import metrics
    from data.batches import padding
    from data.cache import cached
    from data.features import Features, word_features
    from data.predictions import per_word
    from data.submission import write_words
    from models.heads import named_labels
    from training.evaluation import Head
    from training.run import execute, prepare

    # Without add_prefix_space, a byte-level tokenizer silently reads each word as the continuation of the one before.
    examples, config, tokenizer = prepare(args, task, named_labels(task.labels), add_prefix_space=True)
    if args.do_train and examples.train:
        warn_of_the_sum(args, sum(len(example.words) for example in examples.train) / len(examples.train))
    features = examples.map(cached(args.token_cache_dir, word_features, tokenizer, max_seq_length=args.max_seq_length))

    def predictions(rows: Features, logits: list[np.ndarray]) -> list[list[str | None]]:
        """The tag of each word; None if no part of the word reached the encoder."""
        tags = (*task.labels, metrics.NO_TAG)  # the last one is for class -1
        return [
            [None if place is None else tags[classes[place]] for place in places]
            for classes, places in zip(map(metrics.best_class, logits), rows.first_tokens or (), strict=True)
        ]

    def score(rows: Features, logits: list[np.ndarray]) -> dict[str, float]:
        tags = [
            [label if isinstance(label, str) else task.labels[label] for label in example.labels]
            for example in rows.examples
        ]
        return metrics.compute_words(task.metrics, tags, predictions(rows, logits))

    def write(path, rows: Features, logits: list[np.ndarray]) -> None:
        tags = metrics.outside_where_unseen(predictions(rows, logits))
        write_words(path, rows.examples, tags, task.labels, per_word(rows.first_tokens or [], logits))

    head = Head(
        AutoModelForTokenClassification,
        collate=DataCollatorForTokenClassification(tokenizer, **padding(args)),
        score=score,
        write=write,
    )
    execute(args, task, head, config, tokenizer, features)


# The weights of the divergences of a method.
WEIGHTS = {
    **dict.fromkeys(("asa", "asa_budget", "random_mask"), ("asa_divergence_weight",)),
    "rdrop": ("rdrop_alpha",),
    "smart": ("smart_weight", "smart_bregman"),
    "r3f": ("r3f_weight",),
}


def warn_of_the_sum(args: argparse.Namespace, words: float) -> None:
    """Warn if the divergence, a sum over words, has its default weight, and suggest one that offsets the sum.

    Args:
        words: number of words in an average training sentence.
    """
    flags = WEIGHTS.get(args.method, ())
    if not any(getattr(args, flag) == 1 for flag in flags) or words < 2:
        return
    advice = " ".join(f"--{flag} {1 / words:.2g}" for flag in flags)
    if args.method == "asa":  # scale tau too: the balance of divergence and penalty (tau^2) then stays
        advice += f" --tau {args.tau / words**0.5:.2g}"
    log.warning(
        f"--method {args.method}: its divergence is summed over words, {words:.1f} in an average sentence; on WNUT-2017"
        f" this made ASA and R-Drop far worse than plain fine-tuning. {advice} weighs it as that of one word"
    )


if __name__ == "__main__":
    run_script(main)
