"""A corpus for task-adaptive pre-training: the training texts of tasks, one document per line.

python -m data.corpus --tasks SST-2 CoLA DREAM --data_dir data/sets --output corpus/train.txt --held_out 0.02

A document is a sentence, a pair of sentences, or a dialogue with its question and choices, without labels. A document
that several tasks share is written once. It is left out if a dev or test set of any of the tasks has one of its texts:
the sentence, either sentence of a pair, or the dialogue. The documents are shuffled, and a share of them is held out in
a separate file; documents that share a text stay together.
"""

import argparse
import itertools
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from data.examples import ChoiceExample, WordsExample, on_one_line
from data.readers import read_set, task_folder, with_labels
from data.task_kinds import DataSet, Task, TokenTask
from data.tasks import TASKS, find_name
from data.text import TEXT
from utils import InputError, Parser, log, run_script, write_text


def main(argv: Sequence[str] | None = None) -> None:
    """Write the training file and, unless nothing is held out, the held-out file.

    Raises:
        InputError: a task has no training set, its files cannot be read, no document is left, or there is a corpus
            already.
    """
    args = parse_arguments(argv)
    tasks = [TASKS[find_name(name, TASKS, f"--tasks {name}")] for name in args.tasks]
    evaluated = set().union(*(texts for task in tasks for _, texts in evaluated_documents(task, args.data_dir)))
    found: dict[str, frozenset[str]] = {}  # document -> its texts
    for task in tasks:
        own = dict(training_documents(task, args.data_dir))
        left = {
            document: texts
            for document, texts in own.items()
            if document and document not in found and texts.isdisjoint(evaluated)
        }
        log.info(
            f"{task.name}: {len(left)} documents, without {len(own) - len(left)} that are there already, or have a text"
            " that is evaluated"
        )
        found |= left
    held_out, train = divide(found, args.held_out, args.seed)
    if not train:
        raise InputError(f"--tasks {' '.join(args.tasks)}: no document is left to train on")
    output = Path(args.output)
    if not args.overwrite and (there := [path for path in (output, held_out_file(output)) if path.exists()]):
        raise InputError(f"{there[0]} exists already: give another --output, or add --overwrite")
    output.parent.mkdir(parents=True, exist_ok=True)
    held_out_file(output).unlink(missing_ok=True)  # from an earlier corpus; its text may now be training text
    for path, documents in ((output, train), (held_out_file(output), held_out)):
        if documents:
            write_text(path, "".join(f"{text}\n" for text in documents))
            log.info(f"{path}: {len(documents)} documents, {sum(len(text.split()) for text in documents)} words")


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(description=__doc__.partition("\n")[0])
    parser.add_argument("--tasks", nargs="+", required=True, metavar="TASK", help="in upper or lower case")
    parser.add_argument("--data_dir", default="data/sets", help="folder with a folder per task (default: %(default)s)")
    parser.add_argument("--output", required=True, metavar="FILE.txt", help="file for the training documents")
    parser.add_argument(
        "--held_out",
        type=float,
        default=0.02,
        help="share of documents for FILE.held_out.txt; 0 writes no such file (default: %(default)s)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the files of an earlier corpus")
    parser.add_argument("--seed", type=int, default=42, help="seed of the order and of the held-out choice")
    args = parser.parse_args(argv)
    if not 0 <= args.held_out < 1:
        raise InputError(f"--held_out {args.held_out:g}: give a share from 0, below 1")
    if Path(args.output).suffix.lower() != TEXT:
        raise InputError(f"--output {args.output}: its name must end in {TEXT}, by which run_mlm.py knows plain text")
    return args


def held_out_file(output: Path) -> Path:
    return output.with_name(f"{output.stem}.held_out{output.suffix}")


def training_documents(task: Task, data_dir: str) -> Iterator[tuple[str, frozenset[str]]]:
    """The documents of a task's training set, each with its texts.

    Raises:
        InputError: the task has no training set, or it cannot be read.
    """
    if task.train is None:
        raise InputError(f"--tasks {task.name}: it has no training set")
    if isinstance(task, TokenTask):
        task = with_labels(task, data_dir)
    yield from documents_of(_rows(task, task.train, data_dir, labelled=True))


def evaluated_documents(task: Task, data_dir: str) -> Iterator[tuple[str, frozenset[str]]]:
    """Like `training_documents`, for those dev and test sets that exist."""
    if isinstance(task, TokenTask):
        task = with_labels(task, data_dir)
    for name, data_set in itertools.chain(task.dev.items(), task.test.items()):
        for labelled in (True, False):  # a leaderboard's test set has no labels
            try:
                yield from list(documents_of(_rows(task, data_set, data_dir, labelled, evaluated=labelled)))
                break
            except InputError as error:
                missing = error
        else:
            log.warning(f"{name}: what it shares with the training set could not be left out ({missing})")


def _rows(task: Task, data_set: DataSet | None, data_dir: str, labelled: bool, evaluated: bool = False) -> Iterable:
    assert data_set is not None  # the caller has checked that there is a training set
    return read_set(task, data_set, task_folder(data_dir, task.name), labelled, evaluated) or ()


def documents_of(examples: Iterable) -> Iterator[tuple[str, frozenset[str]]]:
    """Yield each example's document, on one line, and the texts that identify it in other sets.

    These texts are the sentences or the context of a question, and the whole document. Questions and choices alone do
    not count: they are often a word or two, and the same in unrelated examples.
    """
    for example in examples:
        more: tuple[str, ...] = ()
        if isinstance(example, WordsExample):
            texts = (" ".join(example.words),)
        elif isinstance(example, ChoiceExample):
            texts, more = (example.context,), (example.question, *example.choices)
        else:
            texts = example.texts
        whole = on_one_line(" ".join((*texts, *more)))
        yield whole, frozenset(filter(None, (*map(on_one_line, texts), whole)))


def divide(documents: Mapping[str, frozenset[str]], share: float, seed: int) -> tuple[list[str], list[str]]:
    """Split the documents, shuffled by the seed, into those held out and the rest.

    Documents that share a text, directly or through others, form a group and stay together. A group that is larger than
    what is still to be held out goes to the training text, so slightly fewer than the share may be held out.

    Args:
        documents: document -> its texts.
    """
    shuffled = list(documents)
    random.Random(seed).shuffle(shuffled)
    together: dict[int, list[str]] = {}
    for document, number in zip(shuffled, _groups([documents[document] for document in shuffled]), strict=True):
        together.setdefault(number, []).append(document)
    held_out: list[str] = []
    for group in together.values():
        if len(held_out) + len(group) <= round(share * len(shuffled)):
            held_out += group
    chosen = set(held_out)
    return held_out, [document for document in shuffled if document not in chosen]


def _groups(texts: Sequence[frozenset[str]]) -> list[int]:
    """The group number of each document: a group's documents share texts, directly or through others."""
    from scipy.sparse import coo_array, csgraph

    places = {text: len(texts) + place for place, text in enumerate(dict.fromkeys(itertools.chain(*texts)))}
    pairs = np.array([(number, places[text]) for number, each in enumerate(texts) for text in each]).reshape(-1, 2)
    shape = (len(texts) + len(places),) * 2
    graph = coo_array((np.ones(len(pairs), dtype=bool), (pairs[:, 0], pairs[:, 1])), shape)
    _, groups = csgraph.connected_components(graph, directed=False)
    return groups[: len(texts)].tolist()


if __name__ == "__main__":
    run_script(main)
