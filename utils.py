"""The ground: errors a user can mend, logging, and files that are whole or absent."""

import argparse
import contextlib
import ctypes
import json
import logging
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from tqdm.contrib.logging import logging_redirect_tqdm

log = logging.getLogger("asa")


class InputError(ValueError):
    """What the user gave cannot be used. The message is one sentence: what is wrong, where, and what to do."""


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one sentence, without the usage text before it."""

    def error(self, message: str):
        self.exit(2, f"{self.prog}: error: {message} (see --help)\n")


def run_script(main) -> None:
    """Run a script's `main()`: `InputError` becomes one sentence on standard error and exit status 2."""
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    # Of several processes, torchrun and accelerate give the first the rank 0: it speaks for all.
    log.setLevel(logging.INFO if os.environ.get("RANK", "0") == "0" else logging.WARNING)
    try:
        with logging_redirect_tqdm([logging.getLogger()]):
            main()
    except InputError as error:
        message = str(error)
    except BrokenPipeError:  # whoever read our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:  # a name too long, a full disk, ...
        message = f"{error.filename}: {error.strerror}" if error.filename else str(error)
    else:
        return
    print(f"{Path(sys.argv[0]).name}: error: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(2)


@contextlib.contextmanager
def atomic_file(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; when the block ends well, it is flushed to disk and renamed to `path`."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Yield an empty folder beside `path`; when the block ends well, it takes the place of `path`."""
    path = Path(path)
    temporary, previous = path.with_name(f".{path.name}.tmp"), path.with_name(f".{path.name}.old")
    for leftover in (temporary, previous):
        shutil.rmtree(leftover, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        if path.exists():
            path.rename(previous)
        temporary.rename(path)
    finally:
        for leftover in (temporary, previous):
            shutil.rmtree(leftover, ignore_errors=True)


def write_text(path: str | Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: str | Path, value) -> None:
    """Write a JSON file, whole or not at all."""
    write_text(path, json.dumps(value, indent=1) + "\n")


def keep_freed_memory() -> bool:
    """Let this process keep the memory that it frees; whether the C library can is returned.

    By default glibc takes each tensor above 32 MB from the system and gives it back: a training step on a processor
    then spends a seventh of its time on the zeroing of fresh pages, most of all for the gradient of the embeddings.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mmap_max, trim_threshold, top_pad = -4, -1, -2  # malloc.h
    settings = ((mmap_max, 0), (trim_threshold, 2**30), (top_pad, 64 * 2**20))
    return all(ctypes.CDLL(None).mallopt(*setting) == 1 for setting in settings)
