"""Predictions files: one line per example or word, in the order of the test file.

For the user's own data, a file name in .jsonl selects one JSON object per example instead of a table.
"""

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import special

from data.examples import ChoiceExample, Example, WordsExample, on_one_line
from data.metrics import NO_CLASS, NO_TAG
from data.task_kinds import SentenceTask
from utils import InputError, counted, write_text


def write_submission(
    path: str | Path,
    task: SentenceTask,
    examples: Sequence[Example],
    predictions: np.ndarray,
    logits: Sequence[np.ndarray] = (),
) -> None:
    """Write a leaderboard file, completely or not at all: `index<TAB>prediction` with a header; classes by name.

    For the user's own data with classes, the probability of each class follows. As JSON: `index`, `prediction` and, for
    classes, `probabilities`, label -> its probability.

    Args:
        predictions: (n,), class indices, or scores of a regression, which are clipped to the task's range.
        logits: of each row; the probabilities are computed from them.
    """
    _check_numbers(path, predictions if task.regression else np.where(predictions == NO_CLASS, np.nan, 0))
    if task.regression:
        words = [f"{score:.6g}" if task.own else f"{score:.3f}" for score in _clipped(predictions, task.score_range)]
    else:
        words = [on_one_line(task.labels[int(label)]) for label in predictions]
    if _is_json(path):
        said: list[dict] = [{"prediction": float(word)} for word in words] if task.regression else []
        if not task.regression:
            labels = [task.labels[int(label)] for label in predictions]
            shares = [dict(zip(task.labels, _shares(row), strict=True)) for row in logits]
            said = [{"prediction": label, "probabilities": of} for label, of in zip(labels, shares, strict=True)]
        return _write_objects(path, examples, said)
    header, rows = ["prediction"], [[word] for word in words]
    if task.own and not task.regression:
        header += [f"probability_{on_one_line(label)}" for label in task.labels]
        rows = [[word, *_probabilities(row)] for word, row in zip(words, logits, strict=True)]
    return _write_indexed(path, examples, header, rows)


def _clipped(scores: np.ndarray, score_range: tuple[float, float] | None) -> np.ndarray:
    return np.clip(scores, *score_range) if score_range else scores


def _probabilities(logits: np.ndarray) -> list[str]:
    return [f"{share:.6g}" for share in special.softmax(np.asarray(logits, float))]


def _shares(logits: np.ndarray) -> list[float]:
    return [float(share) for share in _probabilities(logits)]


def write_choices(
    path: str | Path, examples: Sequence[ChoiceExample], scores: Sequence[np.ndarray], own: bool = False
) -> None:
    """Write the number of the best choice, from 0, and the score of each choice, completely or not at all.

    As JSON: `index`, `prediction`, `choices` (their names in the file) and `probabilities`, in the same order.

    Args:
        scores: (choices,) for each example.
        own: whether this is the user's own data; then choices have their names in the file, and probabilities follow.
    """
    _check_numbers(path, np.concatenate([*scores]))
    if _is_json(path):
        pairs = zip(examples, scores, strict=True)
        said = [
            {"prediction": each.names[row.argmax()], "choices": each.names, "probabilities": _shares(row)}
            for each, row in pairs
        ]
        return _write_objects(path, examples, said)
    most = max(map(len, scores))
    header = ["prediction", *(f"{'probability_' if own else 'score'}{choice}" for choice in range(most))]
    rows = []
    for example, row in zip(examples, scores, strict=True):
        best = row.argmax()
        figures = _probabilities(row) if own else [f"{score:.6g}" for score in row]
        word = on_one_line(example.names[best]) if own else str(best)
        rows.append([word, *figures, *[""] * (most - len(row))])
    return _write_indexed(path, examples, header, rows)


def _check_numbers(path: str | Path, rows: Sequence[float] | np.ndarray) -> None:
    if broken := (~np.isfinite(rows)).sum():
        raise InputError(
            f"{path}: not written, for the model's output is not a number in {counted(broken, 'place')}: use a"
            " checkpoint of a run that did not diverge, or leave out --fp16"
        )


def _write_indexed(path: str | Path, examples: Sequence, header: list[str], rows: Iterable[list[str]]) -> None:
    lines = ["\t".join(["index", *header])]
    for number, (example, row) in enumerate(zip(examples, rows, strict=True)):
        lines.append("\t".join([str(number) if example.index is None else example.index, *row]))
    write_text(path, "\n".join(lines) + "\n")


def _is_json(path: str | Path) -> bool:
    return Path(path).suffix == ".jsonl"


def _write_objects(path: str | Path, examples: Sequence, rows: Sequence[dict[str, Any]]) -> None:
    lines = []
    for number, (example, row) in enumerate(zip(examples, rows, strict=True)):
        index = str(number) if example.index is None else example.index
        lines.append(json.dumps({"index": index, **row}, ensure_ascii=False) + "\n")
    write_text(path, "".join(lines))


def write_words(
    path: str | Path,
    examples: Sequence[WordsExample],
    predictions: list[list[str]],
    labels: Sequence[str] = (),
    logits: Sequence[Sequence[Sequence[float] | None]] = (),
) -> None:
    """Write `word<TAB>tag`, with an empty line after each sentence, completely or not at all.

    The words and sentences are those of the test file; nothing is written for `-DOCSTART-`. As JSON: `index`, `words`,
    `tags` and `probabilities`: for each word, tag -> its probability, or null if the encoder did not see it.

    Args:
        labels: the tags in class order.
        logits: of each word of each sentence, None for a word that the encoder did not see; both are only for JSON.
    """
    _check_numbers(path, [np.nan if NO_TAG in tags else 0 for tags in predictions])
    if _is_json(path):
        said = []
        for example, tags, words in zip(examples, predictions, logits, strict=True):
            shares = [each and dict(zip(labels, _shares(np.array(each)), strict=True)) for each in words]
            said.append({"words": example.words, "tags": tags, "probabilities": shares})
        return _write_objects(path, examples, said)
    lines = []
    for example, tags in zip(examples, predictions, strict=True):
        shown = [re.sub(r"[\t\r\n]", " ", word) for word in example.words]  # words in a list may contain these
        lines += [f"{word}\t{tag}\n" for word, tag in zip(shown, tags, strict=True)] + ["\n"]
    return write_text(path, "".join(lines))
