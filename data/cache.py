"""Token cache: a large set is tokenised once, and memory-mapped from then on (Hugging Face `datasets`, Arrow).

Each set has its own folder, `<cache folder>/<task>-<key>`. The key depends on everything that determines its features:
the content of the data files, the task, the tokenizer, the settings and the code. Nothing has to be cleared by hand: a
new set makes room by removing the least recently used ones. A folder can be deleted at any time, even while a process
has its rows memory-mapped. (Except on Windows, which then keeps it, and where the processes of `--num_workers` are not
forked, as by default on macOS: they open it again in each epoch.)
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

CACHED_FROM = 4_000_000  # bytes of data files; a smaller set is tokenised about as fast as it is looked up
KEPT = 10_000_000_000  # bytes of sets in a cache folder; MNLI has 0.1e9
IN_USE = 3600  # seconds in which a set that was used stays in any case: runs have several, larger than `KEPT` or not
OWN_COLUMNS = ("lengths", "choices", "first_tokens")  # stored in addition to `Features.columns`
ENTRY = re.compile(r"\.?(?P<entry>[^.].*-[0-9a-f]{24})(?P<unfinished>\.tmp|\.old)?")  # the names of the cache's folders


class StoredFeatures(Features):
    """Features on disk; only the requested rows are read into memory."""

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
        """All rows of a batch at once; data loaders call this."""
        return self.rows.__getitems__(indices) if indices else []


def cached(
    folder: str | None, make: Callable[..., Features], tokenizer: PreTrainedTokenizerBase, **settings
) -> Callable[[Examples], Features]:
    """Return a function examples -> `make(examples, tokenizer, **settings)` that uses the cache where possible.

    Args:
        folder: the cache; None for no cache. If it cannot be used, this is logged and nothing is cached.
        settings: JSON-serialisable values; they are part of the cache key.
    """

    def features(examples: Examples) -> Features:
        if folder is None or not tokenizer.is_fast or examples.size() < CACHED_FROM:
            return make(examples, tokenizer, **settings)
        try:
            path = Path(folder) / f"{examples.task.name}-{_key(examples, make, tokenizer, settings)}"
            found = _load(path, examples)
            if found is None:
                path.parent.mkdir(parents=True, exist_ok=True)
                with FileLock(f"{path}.lock"):  # one process works, and the others wait for it
                    found = _load(path, examples)
                    if found is None:
                        _store(path, examples, lambda rows: make(rows, tokenizer, **settings))
                        found = _load(path, examples)
                make_room(path)
        except (OSError, InputError) as error:
            reason = error.__cause__ if isinstance(error, InputError) else error  # `writing` turns one into the other
            if not isinstance(reason, OSError):  # the error is about the data
                raise
            said = reason.strerror or reason
            log.warning(f"--token_cache_dir {folder}: cannot be used ({said}); going on without a cache")
            found = None
        return make(examples, tokenizer, **settings) if found is None else found

    return features


def make_room(new: Path) -> None:
    """After adding a set, remove unfinished sets and the least recently used ones until `KEPT` bytes are left.

    Sets that were used within the last hour or that another process is writing are kept, and so is anything that the
    cache did not make.
    """
    named = [(ENTRY.fullmatch(path.name), path) for path in new.parent.iterdir() if path != new and path.is_dir()]
    found = [(*_use(path), path, name) for name, path in named if name]
    _, kept = _use(new)
    for used, size, path, name in sorted(found, key=lambda entry: entry[0], reverse=True):
        kept += 0 if name["unfinished"] else size
        if name["unfinished"] or (kept > KEPT and used < time.time() - IN_USE):
            lock = FileLock(path.with_name(f"{name['entry']}.lock"), timeout=0)
            with contextlib.suppress(OSError), lock:  # fails if it is being written, or is another user's
                shutil.rmtree(path, ignore_errors=True)


def _use(path: Path) -> tuple[float, int]:
    """When a set was made or last loaded, and its size in bytes; zeros if it is incomplete or gone."""
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
        # The backend also contains the truncation and padding of the last call.
        "tokenizer": {name: value for name, value in backend.items() if name not in ("truncation", "padding")},
        "inputs": [tokenizer.model_input_names, tokenizer.model_max_length, tokenizer.truncation_side],
        "settings": [make.__name__, settings],
        "code": [file_sha256(path) for path in sorted(Path(__file__).parent.glob("*.py"))],
        "versions": [version(package) for package in ("tokenizers", "transformers")],
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:24]


def _load(path: Path, examples: Examples) -> StoredFeatures | None:
    """Load the set in the folder; None if there is none, or it is not what was written."""
    import datasets  # takes a second, which small sets need not wait for

    try:
        about = json.loads((path / "about.json").read_text(encoding="utf-8"))
        if about.pop("checksum") != _checksum(about) or about["sha256"] != file_sha256(path / "rows.arrow"):
            raise ValueError("another checksum")
        found = StoredFeatures(datasets.Dataset.from_file(str(path / "rows.arrow")), about["report"], examples)
        for level, message in about["messages"]:
            log.log(level, message)
        examples.told = True
        with contextlib.suppress(OSError):  # fails if the cache is read-only for this user
            os.utime(path / "about.json")  # for `make_room`
    except FileNotFoundError:
        return None
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError):
        log.warning(f"{path}: the cache is damaged, and made again")
        return None
    log.info(f"{path}: {counted(len(found), 'example')}, tokenised earlier")
    return found


def _store(path: Path, examples: Examples, make: Callable[[list], Features]) -> None:
    """Tokenise chunk by chunk, so that the whole set is never in memory."""
    from datasets.arrow_writer import ArrowWriter

    chunks = examples.chunks(Features.CHUNK)
    with withheld() as messages:  # logged at every start, even if another run tokenised the set
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
    """Combine the reports on all chunks: shares are averaged, counts are summed."""
    rows = sum(count for count, _ in reports)
    return {
        name: sum(count * report[name] for count, report in reports) / rows
        if name.endswith("_share")
        else sum(report[name] for _, report in reports)
        for name in reports[0][1]
    }


def _checksum(about: dict) -> str:
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()
