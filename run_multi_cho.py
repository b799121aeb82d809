"""Multiple choice: DREAM, SWAG and HellaSWAG.

python run_multi_cho.py --do_train --do_eval --task_name DREAM --load_model_path all-MiniLM-L6-v2 --output_dir dream
"""

import argparse
import dataclasses
from collections.abc import Sequence

import numpy as np
from transformers import AutoModelForMultipleChoice

import arguments
from data import metrics
from data.batches import ChoiceCollator, padding
from data.cache import cached
from data.features import TRUNCATIONS, choice_features
from data.submission import write_choices
from data.tasks import CHOICE_TASKS, DREAM_QUESTIONS, find_task
from evaluation import Head
from training import execute, prepare
from utils import InputError, run_script


def main(argv: Sequence[str] | None = None) -> None:
    """Train, evaluate and test as the arguments say.

    Raises:
        InputError: something given cannot be used; nothing has been written then.
    """
    args = parse_arguments(argv)
    task = find_task(args.task_name, CHOICE_TASKS)
    args.task_name = task.name
    if args.dream_questions != task.questions and task.name != "DREAM":
        raise InputError(f"--dream_questions {args.dream_questions}: only DREAM has several questions to a dialogue")
    task = dataclasses.replace(task, questions=args.dream_questions)
    examples, config, tokenizer = prepare(args, task, {})
    settings = {name: getattr(args, name) for name in ("max_seq_length", "truncation", "protocol")}
    features = examples.map(cached(args.token_cache_dir, choice_features, tokenizer, **settings))

    def score(rows, logits: list[np.ndarray]) -> dict[str, float]:
        return metrics.compute(task.metrics, rows.columns["labels"][:], metrics.best_class(logits))

    head = Head(
        AutoModelForMultipleChoice,
        collate=ChoiceCollator(tokenizer, **padding(args)),
        score=score,
        write=lambda path, rows, logits: write_choices(path, rows.examples, np.stack(logits)),
        loss_name="loss",
    )
    execute(args, task, head, config, tokenizer, features)


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The arguments, with this script's defaults (those of the release)."""
    parser = arguments.build_parser(
        "Fine-tune, evaluate and test an encoder on a multiple-choice task.",
        CHOICE_TASKS,
        train_batch_size=16,
        eval_batch_size=64,
        learning_rate=1e-5,
        warmup_proportion=0.06,
        weight_decay=0.0,
    )
    group = parser.add_argument_group("multiple choice")
    group.add_argument(
        "--dream_questions", choices=DREAM_QUESTIONS, default="first", help="of each dialogue (default: %(default)s)"
    )
    group.add_argument(
        "--truncation",
        choices=TRUNCATIONS,
        default="longest_first",
        help="cut the longer of context and question, or the context alone (default: %(default)s)",
    )
    return arguments.parse(parser, argv)


if __name__ == "__main__":
    run_script(main)
