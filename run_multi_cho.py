"""Multiple choice: DREAM, SWAG, HellaSWAG, and your own files.

python run_multi_cho.py --do_train --do_eval --task_name DREAM --load_model_path all-MiniLM-L6-v2 --output_dir dream
"""

import dataclasses
from collections.abc import Sequence

from data.own import task_of
from data.tasks import CHOICE_TASKS
from training import arguments
from utils import InputError, run_script


def main(argv: Sequence[str] | None = None) -> None:
    """Train, evaluate and predict, as the arguments request.

    Raises:
        InputError: an argument or an input file cannot be used, and nothing but caches has been written; or training
            cannot go on: its loss is not finite, or memory or disk is full.
        Interrupted: by SIGTERM or Ctrl-C in training; the state has been saved.
    """
    args = arguments.of_script("run_multi_cho", argv)
    task = task_of(args, CHOICE_TASKS)
    args.task_name = task.name
    if args.dream_questions != task.questions and task.name != "DREAM":
        raise InputError(f"--dream_questions {args.dream_questions}: only DREAM has several questions to a dialogue")
    task = dataclasses.replace(task, questions=args.dream_questions)
    # Imported here because they take seconds to load: --help and argument errors do not have to wait for them.
    import numpy as np
    from transformers import AutoModelForMultipleChoice

    from data import metrics
    from data.batches import ChoiceCollator, padding
    from data.cache import cached
    from data.features import choice_features
    from data.submission import write_choices
    from models.heads import NO_CLASSES
    from training.evaluation import Head
    from training.run import execute, prepare

    examples, config, tokenizer = prepare(args, task, NO_CLASSES)
    settings = {name: getattr(args, name) for name in ("max_seq_length", "truncation", "protocol")}
    features = examples.map(cached(args.token_cache_dir, choice_features, tokenizer, **settings))

    def score(rows, logits: list[np.ndarray]) -> dict[str, float]:
        return metrics.compute(task.metrics, rows.columns["labels"][:], metrics.best_class(logits))

    head = Head(
        AutoModelForMultipleChoice,
        collate=ChoiceCollator(tokenizer, **padding(args)),
        score=score,
        write=lambda path, rows, logits: write_choices(path, rows.examples, logits, task.own),
        loss_name="loss",
    )
    execute(args, task, head, config, tokenizer, features)


if __name__ == "__main__":
    run_script(main)
