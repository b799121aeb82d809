"""Sentence and sentence-pair tasks: GLUE, ANLI and PAWS-QQP.

python run_sent_clas.py --do_train --do_eval --task_name SST-2 --load_model_path all-MiniLM-L6-v2 --output_dir sst
"""

import argparse
from collections.abc import Sequence

import numpy as np
from accelerate.utils import set_seed
from transformers import AutoModelForSequenceClassification, DataCollatorWithPadding

import arguments
from data import metrics, readers
from data.features import sentence_features
from data.submission import write_submission
from data.tasks import SENTENCE_TASKS, find_task
from models import checkpoints, encoders, objectives
from run_folder import RunFolder, describe
from training import Run, evaluate, make_accelerator, predict, train
from utils import log, run_script


def main(argv: Sequence[str] | None = None) -> None:
    """Train, evaluate and test as the arguments say.

    Raises:
        InputError: something given cannot be used; nothing has been written then.
    """
    args = parse_arguments(argv)
    task = find_task(args.task_name, SENTENCE_TASKS)
    args.task_name = task.name
    folder = RunFolder(args.output_dir)
    tests = {name: rows for name, rows in task.test.items() if args.do_test and rows.submission}
    folder.check(args, [rows.submission for rows in tests.values()])

    # Read everything before anything is written.
    data_dir = readers.task_folder(args.data_dir, task.name)
    train_examples = readers.read_set(task, task.train, data_dir, labelled=True) if args.do_train else None
    sets = (task.dev if args.eval_on == "dev" else task.test) if args.do_eval else {}
    eval_examples = _present({name: readers.read_set(task, rows, data_dir, True) for name, rows in sets.items()})
    test_examples = _present({name: readers.read_set(task, rows, data_dir, False) for name, rows in tests.items()})

    labels = (
        {"num_labels": 1}
        if task.regression
        else {
            "num_labels": len(task.labels),
            "id2label": dict(enumerate(task.labels)),
            "label2id": {label: index for index, label in enumerate(task.labels)},
        }
    )
    config = encoders.load_config(args.load_model_path, args.model_type, args.cache_dir, **labels)
    tokenizer = encoders.load_tokenizer(
        args.load_model_path, args.cache_dir, args.do_lower_case, args.use_slow_tokenizer
    )
    train_set = sentence_features(train_examples, tokenizer, args.max_seq_length) if args.do_train else None
    eval_sets, test_sets = (
        {name: sentence_features(examples, tokenizer, args.max_seq_length) for name, examples in sets.items()}
        for sets in (eval_examples, test_examples)
    )

    set_seed(args.seed)
    if args.do_train:
        backbone = encoders.load_pretrained(
            AutoModelForSequenceClassification, args.load_model_path, config, args.cache_dir, args.attn_implementation
        )
        model = objectives.build(args.method, backbone, args)
    else:
        model = checkpoints.load_saved(
            AutoModelForSequenceClassification, args.test_model_file, config, args.attn_implementation
        )

    padding = "max_length" if args.pad_to_max_length else "longest"
    collate = DataCollatorWithPadding(tokenizer, padding=padding, max_length=args.max_seq_length)

    def predictions(logits: np.ndarray) -> np.ndarray:
        return logits.squeeze(-1) if task.regression else logits.argmax(-1)

    def score(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        return metrics.compute(task.metrics, labels, predictions(logits))

    accelerator = make_accelerator(args)
    run = Run(args, accelerator, model, tokenizer, collate, score, folder)
    folder.open(args, [rows.submission for rows in tests.values()])
    examples = {"train": len(train_examples)} if args.do_train else {}
    examples |= {"eval": len(next(iter(eval_examples.values())))} if eval_examples else {}
    examples |= {"test": len(next(iter(test_examples.values())))} if test_examples else {}

    if args.do_train:
        best = train(run, train_set, eval_sets, examples)
        log.info(f"best: epoch {best['epoch']}, saved as {folder.best}")
    else:
        run.model = accelerator.prepare(model)
    if args.do_eval and not args.do_train:
        scores = evaluate(run, eval_sets)
        folder.write_evaluation(describe(args, accelerator.device, examples) | scores)
        print(f"eval score = {scores['eval_score']:.2f} | eval loss = {scores['eval_loss']:.3f}")
    for name, features in test_sets.items():
        path = folder.submission(tests[name].submission)
        write_submission(path, task, test_examples[name], predictions(predict(run, features)[0]))
        log.info(f"predictions: {path}")


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


def _present(sets: dict) -> dict:
    return {name: examples for name, examples in sets.items() if examples is not None}


if __name__ == "__main__":
    run_script(main)
