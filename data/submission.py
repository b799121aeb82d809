"""Leaderboard files: `index<TAB>prediction` with a header, label words, one line an example in the file's order."""

from pathlib import Path

import numpy as np

from data.readers import Example
from data.tasks import SentenceTask
from utils import write_text


def write_submission(path: str | Path, task: SentenceTask, examples: list[Example], predictions: np.ndarray) -> None:
    """Write a test set's predictions, whole or not at all.

    Args:
        predictions: (n,), class indices, or scores of a regression, which are clipped to the task's range.
    """
    if task.regression:
        words = [f"{score:.3f}" for score in np.clip(predictions, *task.score_range)]
    else:
        words = [task.labels[int(label)] for label in predictions]
    rows = enumerate(zip(examples, words, strict=True))
    lines = (f"{row if example.index is None else example.index}\t{word}\n" for row, (example, word) in rows)
    write_text(path, "index\tprediction\n" + "".join(lines))
