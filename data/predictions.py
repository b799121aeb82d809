"""Predictions per example of an evaluated set, so that scores can be computed again.

A file has a row for each example, in the order of the set, with these columns:

index          the row's id in the data file, else its number from 0 among the rows that are not left out
label          class index (-100 for a label that the task does not have, which counts as wrong), score of a regression,
               or the class index of each word
logits         from the last epoch evaluated: one number per class (or choice), or a list of them for each word that the
               encoder saw, null for other words; if the model's classes are not the task's labels (HANS), one number
               per label, the highest among the classes that count as that label
best_logits    the same from the best epoch; only in files of a training run
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from utils import InputError, atomic_file

if TYPE_CHECKING:
    from data.features import Features

BEST, EPOCH = "best_logits", "best_epoch"


def file_name(set_name: str) -> str:
    """The name of a set's predictions file; if the set is itself a file, after that file."""
    return re.sub(r"[^\w.-]", "_", Path(set_name).stem if "/" in set_name else set_name) + ".parquet"


def write_predictions(
    path: str | Path,
    features: Features,
    logits: list[np.ndarray],
    best_epoch: int | None = None,
    is_best: bool = False,
) -> None:
    """Write one set's predictions, whole or not at all.

    Args:
        logits: (classes,) for each row, or (L, classes) in a token task.
        best_epoch: the best epoch so far in a training run; without it, the file has no `best_logits`.
        is_best: whether these are the best epoch's logits. If not, they are taken from the existing file.

    Raises:
        InputError: the file cannot be written.
    """
    import pyarrow
    from pyarrow import parquet

    path = Path(path)
    firsts = features.first_tokens
    rows = per_word(firsts, logits) if firsts is not None else [row.tolist() for row in logits]
    columns = {"index": _indices(features), "label": _labels(features), "logits": rows}
    if best_epoch is not None:
        best = rows if is_best else _kept(path, best_epoch)
        if best is not None:
            columns[BEST] = best
    nested = 1 if firsts is None else 2
    numbers = pyarrow.from_numpy_dtype(logits[0].dtype) if logits else pyarrow.float32()
    for _ in range(nested):
        numbers = pyarrow.list_(numbers)
    scores = [name for name in ("logits", BEST) if name in columns]
    table = pyarrow.table(columns | {name: pyarrow.array(columns[name], numbers) for name in scores})
    table = table.replace_schema_metadata({EPOCH: json.dumps(best_epoch if BEST in columns else None)})
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as temporary:
        # Half the size: repeated labels as a dictionary, and each byte of the numbers in a stream of its own.
        inside = ".list.element" * nested
        parquet.write_table(
            table,
            temporary,
            compression="zstd",
            use_dictionary=["label", "label.list.element"],
            use_byte_stream_split=[name + inside for name in scores],
        )


def read_predictions(path: str | Path) -> dict[str, list]:
    """Read a file of `write_predictions`: column -> its values, one per row.

    Raises:
        InputError: it is not such a file.
    """
    import pyarrow
    from pyarrow import parquet

    try:
        columns = parquet.read_table(path).to_pydict()
    except (OSError, pyarrow.ArrowException) as error:
        raise InputError(f"{path}: not a file of predictions ({error})") from None
    if not {"index", "label", "logits"} <= columns.keys():
        raise InputError(f"{path}: not a file of predictions: it has the columns {', '.join(columns)}")
    return columns


def _kept(path: Path, best_epoch: int) -> list | None:
    """The best epoch's logits in the file; None if it has none, or those of another epoch (after a resume)."""
    from pyarrow import parquet

    if not path.exists():
        return None
    table = parquet.read_table(path)
    if BEST not in table.column_names or table.schema.metadata.get(EPOCH.encode()) != json.dumps(best_epoch).encode():
        return None
    return table[BEST].to_pylist()


def _indices(features: Features) -> list[str]:
    given = [getattr(example, "index", None) for example in features.examples] or [None] * len(features)
    return [str(number) if index is None else index for number, index in enumerate(given)]


def _labels(features: Features) -> Sequence:
    if features.first_tokens is None:
        return list(features.columns["labels"][:])
    from data.features import class_index  # not at the top: `file_name` must not import PyTorch

    return [[class_index(label) for label in example.labels] for example in features.examples]


def per_word(first_tokens: list[list[int | None]], logits: list[np.ndarray]) -> list[list[list[float] | None]]:
    """The logits of each word of each row, None for a word that the encoder did not see."""
    return [
        [None if place is None else row[place].tolist() for place in places]
        for row, places in zip(logits, first_tokens, strict=True)
    ]
