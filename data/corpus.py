"""A corpus for task-adaptive pre-training: the training texts of tasks, one document a line.

python -m data.corpus --tasks SST-2 CoLA DREAM --data_dir data/sets --output corpus/train.txt --held_out 0.02

A document is a sentence, a pair of sentences, a sentence of words, or a dialogue with its question and choices; labels
are not in it. It stands there once, however many tasks have it, and not at all if a dev or test set of one of the tasks
has it too. The documents are shuffled, and a share of them is held out in a file of its own.
"""

import argparse
import itertools
import random
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from data.examples import ChoiceExample, WordsExample
from data.readers import read_set, task_folder, with_labels
from data.task_kinds import DataSet, Task, TokenTask
from data.tasks import TASKS, find_name
from utils import InputError, Parser, log, run_script, write_text


def main(argv: Sequence[str] | None = None) -> None:
    """Write the two files.

    Raises:
        InputError: a task has no training set, or its files cannot be read.
    """
    args = parse_arguments(argv)
    tasks = [TASKS[find_name(name, TASKS, f"--tasks {name}")] for name in args.tasks]
    evaluated = {text for task in tasks for text in evaluation_texts(task, args.data_dir)}
    texts: dict[str, None] = {}
    for task in tasks:
        own = dict.fromkeys(training_texts(task, args.data_dir))
        left = [text for text in own if text and text not in evaluated and text not in texts]
        log.info(
            f"{task.name}: {len(left)} documents, without {len(own) - len(left)} that are evaluated or there already"
        )
        texts |= dict.fromkeys(left)
    held_out, train = divide(list(texts), args.held_out, args.seed)
    output = Path(args.output)
    output.parent.mkdir(parents=True, exist_ok=True)
    for path, documents in ((output, train), (held_out_file(output), held_out)):
        if documents:
            write_text(path, "".join(f"{text}\n" for text in documents))
            log.info(f"{path}: {len(documents)} documents, {sum(len(text.split()) for text in documents)} words")


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(description=__doc__.partition("\n")[0])
    parser.add_argument("--tasks", nargs="+", required=True, metavar="TASK", help="in any case")
    parser.add_argument("--data_dir", default="data/sets", help="holds a folder per task (default: %(default)s)")
    parser.add_argument("--output", required=True, metavar="FILE.txt", help="gets the documents to train on")
    parser.add_argument(
        "--held_out", type=float, default=0.02, help="share that goes to FILE.held_out.txt (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=42, help="of the order and of what is held out")
    args = parser.parse_args(argv)
    if not 0 <= args.held_out < 1:
        raise InputError(f"--held_out {args.held_out:g}: give a share from 0, below 1")
    return args


def held_out_file(output: Path) -> Path:
    return output.with_name(f"{output.stem}.held_out{output.suffix}")


def training_texts(task: Task, data_dir: str) -> Iterator[str]:
    """The documents of a task's training set.

    Raises:
        InputError: it has none, or it cannot be read.
    """
    if task.train is None:
        raise InputError(f"--tasks {task.name}: it has no training set")
    if isinstance(task, TokenTask):
        task = with_labels(task, data_dir)
    yield from documents_of(_rows(task, task.train, data_dir, labelled=True))


def evaluation_texts(task: Task, data_dir: str) -> Iterator[str]:
    """The documents of a task's dev and test sets, as far as they are there."""
    if isinstance(task, TokenTask):
        task = with_labels(task, data_dir)
    for name, data_set in itertools.chain(task.dev.items(), task.test.items()):
        for labelled in (True, False):  # a test set of a leaderboard has no labels
            try:
                yield from list(documents_of(_rows(task, data_set, data_dir, labelled, evaluated=labelled)))
                break
            except InputError as error:
                missing = error
        else:
            log.warning(f"{name}: what it shares with the training set could not be left out ({missing})")


def _rows(task: Task, data_set: DataSet | None, data_dir: str, labelled: bool, evaluated: bool = False) -> Iterable:
    assert data_set is not None  # of a training set that was looked for
    return read_set(task, data_set, task_folder(data_dir, task.name), labelled, evaluated) or ()


def documents_of(examples: Iterable) -> Iterator[str]:
    """What each example says, on one line."""
    for example in examples:
        if isinstance(example, WordsExample):
            parts = example.words
        elif isinstance(example, ChoiceExample):
            parts = [example.context, example.question, *example.choices]
        else:
            parts = example.texts
        yield " ".join(" ".join(parts).split())


def divide(texts: list[str], share: float, seed: int) -> tuple[list[str], list[str]]:
    """The documents in an order that follows from the seed: what is held out, and the rest."""
    random.Random(seed).shuffle(texts)
    count = round(share * len(texts))
    return texts[:count], texts[count:]


if __name__ == "__main__":
    run_script(main)
