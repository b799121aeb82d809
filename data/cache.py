"""Token cache: a large set is tokenised once, and memory-mapped from then on (Hugging Face `datasets`, Arrow).

A set stands in a folder of its own, `<cache folder>/<task>-<key>`, where the key follows from all that its features are
made of: the content of the data files, the task, the tokenizer, the settings and the code. Nothing has to be cleared by
hand: a new set makes room for itself by removing those that were used longest ago; and a folder can be deleted at any
time, also while a process has its rows memory-mapped (but on Windows, which then keeps it).
"""

import contextlib
import hashlib
import itertools
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path

from filelock import FileLock
from transformers import PreTrainedTokenizerBase

from data.features import Features
from data.readers import Examples, withheld
from utils import InputError, atomic_folder, counted, file_sha256, log, write_json

CACHED_FROM = 4_000_000  # bytes of data files; what is smaller is tokenised in about the time that a look-up takes
KEPT = 10_000_000_000  # bytes of sets in a cache folder; MNLI has 0.1e9
IN_USE = 3600  # seconds in which a set that was used stays in any case: runs have several, larger than `KEPT` or not
CHUNK = 10_000  # examples tokenised at once
OWN_COLUMNS = ("lengths", "choices", "first_tokens")  # beside those of `Features.columns`
ENTRY = re.compile(r"\.?(?P<entry>[^.].*-[0-9a-f]{24})(?P<unfinished>\.tmp|\.old)?")  # what the cache calls its folders


class StoredFeatures(Features):
    """Features on disk, of which only the rows that are asked for enter the memory."""

    def __init__(self, rows, report: dict, examples: Examples):
        """`rows`: a `datasets.Dataset`."""
        columns = [name for name in rows.column_names if name not in OWN_COLUMNS]
        super().__init__(
            {name: rows[name] for name in columns},
            examples=examples,
            lengths=rows["lengths"][:],
            choices=rows["choices"][:] if "choices" in rows.column_names else None,
            report=report,
            first_tokens=rows["first_tokens"] if "first_tokens" in rows.column_names else None,
        )
        self.rows = rows.select_columns(columns)

    def __getitem__(self, index: int) -> dict:
        return self.rows[index]

    def __getitems__(self, indices: list[int]) -> list[dict]:
        """All rows of a batch at once, where a data loader asks for them."""
        return self.rows.__getitems__(indices) if indices else []


def cached(
    folder: str | None, make: Callable[..., Features], tokenizer: PreTrainedTokenizerBase, **settings
) -> Callable[[Examples], Features]:
    """A function examples -> `make(examples, tokenizer, **settings)`, which takes the result from the cache if it can.

    Args:
        folder: the cache; None for no cache. If it cannot be used, the log says so, and nothing is cached.
        settings: values that JSON can hold; they are part of the cache's key.
    """

    def features(examples: Examples) -> Features:
        if folder is None or not tokenizer.is_fast or examples.size() < CACHED_FROM:
            return make(examples, tokenizer, **settings)
        try:
            path = Path(folder) / f"{examples.task.name}-{_key(examples, make, tokenizer, settings)}"
            found = _load(path, examples)
            if found is None:
                path.parent.mkdir(parents=True, exist_ok=True)
                with FileLock(f"{path}.lock"):  # of several processes one works, and the others wait for it
                    found = _load(path, examples)
                    if found is None:
                        _store(path, examples, lambda rows: make(rows, tokenizer, **settings))
                        found = _load(path, examples)
                make_room(path)
        except (OSError, InputError) as error:
            reason = error.__cause__ if isinstance(error, InputError) else error  # as `writing` turns one into another
            if not isinstance(reason, OSError):  # it is of the data
                raise
            said = reason.strerror or reason
            log.warning(f"--token_cache_dir {folder}: cannot be used ({said}); going on without a cache")
            found = None
        return make(examples, tokenizer, **settings) if found is None else found

    return features


def make_room(new: Path) -> None:
    """Remove, beside a new set, those used longest ago until `KEPT` bytes are left, and what was never finished.

    What was used within the last hour stays, as does what another process is writing, and what the cache did not make.
    """
    named = [(ENTRY.fullmatch(path.name), path) for path in new.parent.iterdir() if path != new and path.is_dir()]
    found = [(*_use(path), path, name) for name, path in named if name]
    _, kept = _use(new)
    for used, size, path, name in sorted(found, key=lambda entry: entry[0], reverse=True):
        kept += 0 if name["unfinished"] else size
        if name["unfinished"] or (kept > KEPT and used < time.time() - IN_USE):
            lock = FileLock(path.with_name(f"{name['entry']}.lock"), timeout=0)
            with contextlib.suppress(OSError), lock:  # it is being written, or another user's
                shutil.rmtree(path, ignore_errors=True)


def _use(path: Path) -> tuple[float, int]:
    """When a set was made or last loaded, and its bytes; zeros where it is not whole, or gone."""
    try:
        return (path / "about.json").stat().st_mtime, sum(file.stat().st_size for file in path.iterdir())
    except OSError:
        return 0.0, 0


def _key(examples: Examples, make: Callable, tokenizer: PreTrainedTokenizerBase, settings: dict) -> str:
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    parts = {
        "files": [file_sha256(path) for path in examples.paths],
        "task": repr(examples.task),
        "labelled": [examples.labelled, examples.evaluated],
        "share": repr(examples.share),
        # The last call's truncation and padding stand in the backend too.
        "tokenizer": {name: value for name, value in backend.items() if name not in ("truncation", "padding")},
        "inputs": [tokenizer.model_input_names, tokenizer.model_max_length, tokenizer.truncation_side],
        "settings": [make.__name__, settings],
        "code": [file_sha256(path) for path in sorted(Path(__file__).parent.glob("*.py"))],
        "versions": [version(package) for package in ("tokenizers", "transformers")],
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:24]


def _load(path: Path, examples: Examples) -> StoredFeatures | None:
    """What stands in the folder; None where nothing does, or something else than was written."""
    import datasets  # takes a second, which small sets need not wait for

    try:
        about = json.loads((path / "about.json").read_text(encoding="utf-8"))
        if about.pop("checksum") != _checksum(about) or about["sha256"] != file_sha256(path / "rows.arrow"):
            raise ValueError("another checksum")
        found = StoredFeatures(datasets.Dataset.from_file(str(path / "rows.arrow")), about["report"], examples)
        for level, message in about["messages"]:
            log.log(level, message)
        examples.told = True
        with contextlib.suppress(OSError):  # of a cache that only others may write
            os.utime(path / "about.json")  # for `make_room`
    except FileNotFoundError:
        return None
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError):
        log.warning(f"{path}: the cache is damaged, and made again")
        return None
    log.info(f"{path}: {counted(len(found), 'example')}, tokenised earlier")
    return found


def _store(path: Path, examples: Examples, make: Callable[[list], Features]) -> None:
    """Tokenise chunk by chunk, so that the whole is never in memory."""
    from datasets.arrow_writer import ArrowWriter

    chunks = examples.chunks(CHUNK)
    with withheld() as messages:  # they are said at each start, whoever has tokenised the set
        first = next(chunks)
    examples.told = False
    reports = []
    with atomic_folder(path) as folder, ArrowWriter(path=str(folder / "rows.arrow")) as writer:
        for rows in itertools.chain([first], chunks):
            features = make(rows)
            columns = {**features.columns, "lengths": features.lengths}
            if features.choices is not None:
                columns["choices"] = features.choices
            if features.first_tokens is not None:
                columns["first_tokens"] = features.first_tokens
            writer.write_batch(columns)
            reports.append((len(features), features.report))
        writer.finalize()
        report = _whole(reports) | examples.report
        about = {"sha256": file_sha256(folder / "rows.arrow"), "report": report, "messages": messages}
        write_json(folder / "about.json", about | {"checksum": _checksum(about)})


def _whole(reports: list[tuple[int, Mapping[str, float]]]) -> dict[str, float]:
    """The report on all chunks: the mean of a share, the sum of a number."""
    rows = sum(count for count, _ in reports)
    return {
        name: sum(count * report[name] for count, report in reports) / rows
        if name.endswith("_share")
        else sum(report[name] for _, report in reports)
        for name in reports[0][1]
    }


def _checksum(about: dict) -> str:
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()
