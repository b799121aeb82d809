"""Utilities: errors that a user can fix, logging, and atomic files."""

import argparse
import contextlib
import ctypes
import difflib
import errno
import hashlib
import json
import logging
import math
import os
import platform
import re
import shutil
import signal
import stat
import sys
import time
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path, PureWindowsPath

from safetensors import SafetensorError
from tqdm.contrib.logging import logging_redirect_tqdm

log = logging.getLogger("asa")


class InputError(ValueError):
    """The user's input cannot be used. The message is one sentence: what is wrong, where, and what to do."""


class Interrupted(Exception):
    """A signal asked the run to stop, and it has stopped cleanly. The message says how to continue."""

    def __init__(self, signal_number: int, message: str):
        super().__init__(message)
        self.signal_number = signal_number


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one sentence, without the usage text before it.

    It also expands ~ at the beginning of a value: the shell does not, as in `--output_dir=~/runs`.
    """

    def parse_known_args(self, args=None, namespace=None):
        namespace, rest = super().parse_known_args(args, namespace)
        for name, value in vars(namespace).items():
            setattr(namespace, name, list(map(_expanded, value)) if isinstance(value, list) else _expanded(value))
        return namespace, rest

    def error(self, message: str):
        self.exit(2, f"{self.prog}: error: {message}{self._nearest(message)} (see --help)\n")

    def _nearest(self, message: str) -> str:
        """A hint at the flag or choice that was probably meant."""
        if flag := re.match(r"unrecognized arguments: .*?(--[^\s=]+)", message):
            known = re.findall(r"--\w+", self.format_usage())
        elif flag := re.search(r"invalid choice: '([^']*)'(?=.*\(choose from (.*)\))", message):
            known = re.findall(r"[\w-]+", flag[2])
        near = difflib.get_close_matches(flag[1], known, n=1) if flag else []
        return f"; did you mean {near[0]}?" if near else ""


def _expanded(value):
    """A path below ~ with the home folder's name; anything else unchanged."""
    return os.path.expanduser(value) if isinstance(value, str) and value.startswith("~/") else value


def run_script(main) -> None:
    """Run a script's `main()`, and turn its exceptions into one sentence on standard error and an exit status.

    2: the input cannot be used (`InputError`), or a file cannot be written; 128 + the signal's number: interrupted.
    """
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    # torchrun and accelerate give the first process rank 0: it logs for all.
    log.setLevel(logging.INFO if os.environ.get("RANK", "0") == "0" else logging.ERROR)
    try:
        with logging_redirect_tqdm([logging.getLogger()]):
            main()
    except InputError as error:
        message = str(error)
    except Interrupted as stop:
        print(f"{Path(sys.argv[0]).name}: {stop}", file=sys.stderr)
        sys.exit(128 + stop.signal_number)
    except KeyboardInterrupt:
        print(f"{Path(sys.argv[0]).name}: interrupted", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
    except BrokenPipeError:  # the reader of our output has closed it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:  # a name too long, a full disk, ...
        message = reason(error)
    except RecursionError:
        message = "an input file is nested too deeply to be read"
    else:
        return
    print(f"{Path(sys.argv[0]).name}: error: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(2)


def reason(error: InputError | OSError) -> str:
    """An error's message for the user."""
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}"
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return f"standard output, or a file: {error.strerror}"
    return str(error)


class StopSignals:
    """Context in which termination signals are noted, not obeyed; ignored signals stay ignored.

    One request to stop often comes as several signals: a scheduler or a shutdown signals every process, each process
    signals those that it has started, and a closing terminal sends two. Signals within `SAME_REQUEST` seconds of the
    first therefore count as the same request.

    noted: the number of the first signal; 0 before there is one.
    insisted: whether another one came after that time. A closed terminal does not insist.
    """

    SAME_REQUEST = 5.0

    def __init__(self, *numbers: int):
        self.numbers = numbers
        self.noted, self.insisted = 0, False

    def __enter__(self) -> "StopSignals":
        before = {number: signal.getsignal(number) for number in self.numbers}
        self.before = {number: handler for number, handler in before.items() if handler != signal.SIG_IGN}
        for number in self.before:
            signal.signal(number, self._note)
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _) -> None:
        if not self.noted:
            self.noted, self._known_until = number, time.monotonic() + self.SAME_REQUEST
        elif time.monotonic() > self._known_until and number != signal.SIGHUP:
            self.insist(number)

    def insist(self, number: int) -> None:
        """Handle a signal that insists: only note it. A subclass may obey it."""
        self.insisted = True


@contextlib.contextmanager
def atomic_file(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path next to `path`; if the block succeeds, it is flushed to disk and renamed to `path`.

    Raises:
        InputError: it cannot be written, for lack of space or permission.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with writing(path):
            yield temporary
            _flush(temporary)
            os.replace(temporary, path)
            _flush(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Yield an empty folder next to `path`; if the block succeeds, it is flushed to disk and replaces `path`.

    Raises:
        InputError: it cannot be written, for lack of space or permission.
    """
    path = Path(path)
    temporary, previous = path.with_name(f".{path.name}.tmp"), path.with_name(f".{path.name}.old")
    with writing(path):
        if previous.exists() and not path.exists():
            previous.rename(path)  # a process was killed between the two renames below
        for leftover in (temporary, previous):
            shutil.rmtree(leftover, ignore_errors=True)
        temporary.mkdir(parents=True)
    try:
        with writing(path):
            yield temporary
            for file in temporary.rglob("*"):
                _flush(file)
            _flush(temporary)
            if path.exists():
                path.rename(previous)
            temporary.rename(path)
            _flush(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if path.exists():
            shutil.rmtree(previous, ignore_errors=True)


@contextlib.contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """Context that turns a failure to write a file into an `InputError` that names `path`."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror or error})") from error
    except SafetensorError as error:  # the library words the system's reason differently
        raise InputError(f"{path}: cannot be written ({error})") from error


@contextlib.contextmanager
def open_zip(path: str | Path, origin: str | Path) -> Iterator[zipfile.ZipFile]:
    """Open a zip archive to read its members within this block.

    Args:
        origin: how messages call the archive.

    Raises:
        InputError: the archive is damaged, or a member would be written outside the folder or is not a file. Nothing is
            extracted from such an archive, not even its harmless members.
    """
    try:
        with zipfile.ZipFile(path) as members:
            for member in members.infolist():
                if _climbs(member):
                    raise InputError(
                        f"{origin}: refused, its member {member.filename!r} leads out of the folder, or is no file"
                    )
            yield members
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError) as error:  # encrypted, ...
        raise InputError(f"{origin}: not a readable zip archive ({error}); it is not kept") from None


def _climbs(member: zipfile.ZipInfo) -> bool:
    # Windows' rules cover both slashes and drive letters: a path that is safe there is safe everywhere.
    path = PureWindowsPath(member.filename)
    kind = stat.S_IFMT(member.external_attr >> 16)  # 0 if the archive was not made on Unix
    return bool(path.anchor) or ".." in path.parts or kind not in (0, stat.S_IFREG, stat.S_IFDIR)


def file_sha256(path: str | Path) -> str:
    """The sha256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def user_cache() -> Path:
    """The folder for downloads that all runs share: `$ASA_CACHE_DIR`, or one in `$XDG_CACHE_HOME` or `~/.cache`.

    Raises:
        InputError: the user has no home folder.
    """
    try:
        if given := os.environ.get("ASA_CACHE_DIR"):
            return Path(given).expanduser().absolute()
        cache = os.environ.get("XDG_CACHE_HOME", "")
        # The XDG specification says to ignore a relative path.
        root = Path(cache) if os.path.isabs(cache) else Path.home() / ".cache"
    except RuntimeError:
        raise InputError("there is no home folder to keep a cache in: set ASA_CACHE_DIR to a folder") from None
    return root / "adversarial_self_attention"


def remove_folder(path: Path) -> None:
    """Remove a folder, renaming it first: a partly removed folder never has its name."""
    hidden = path.with_name(f".{path.name}.old")
    shutil.rmtree(hidden, ignore_errors=True)
    path.rename(hidden)
    shutil.rmtree(hidden, ignore_errors=True)


def _flush(path: Path) -> None:
    """Flush a file or folder to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: str | Path, text: str) -> None:
    """Write a text file, completely or not at all."""
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: str | Path, value) -> None:
    """Write a JSON file, completely or not at all; numbers that are not finite become null."""
    write_text(path, json.dumps(finite(value), indent=1, allow_nan=False) + "\n")


def finite(value):
    """The value for JSON, with None in place of numbers that are not finite."""
    if isinstance(value, dict):
        return {name: finite(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def declared_classes(config: Mapping) -> dict[int, str]:
    """Class -> its name, from a model's config.json: from `id2label`, else from `label2id`, else empty."""
    if config.get("id2label"):
        return {int(number): str(name) for number, name in config["id2label"].items()}
    names = {int(number): str(name) for name, number in (config.get("label2id") or {}).items()}
    return names if sorted(names) == list(range(len(names))) else {}


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """A number with its noun: 1 row, 2 rows; give the `plural` if it is not formed with an s."""
    return f"{number} {noun if number == 1 else plural or f'{noun}s'}"


def short(value) -> str:
    """The value of an argument, for a table or a label."""
    if isinstance(value, list):  # a list of layers
        return " ".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def as_typed(name: str, value) -> str:
    """An argument as it is given on the command line, for a message."""
    if value is None or isinstance(value, bool):
        return f"--{name}" if value else f"no --{name}"
    return f"--{name} {short(value)}"


def keep_freed_memory() -> bool:
    """Let this process keep the memory that it frees; return whether the C library supports that.

    By default, glibc requests each tensor above 32 MB from the system and returns it afterwards. A training step on CPU
    then spends a seventh of its time zeroing fresh pages, mainly for the gradient of the embeddings.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mmap_max, trim_threshold, top_pad = -4, -1, -2  # malloc.h
    settings = ((mmap_max, 0), (trim_threshold, 2**30), (top_pad, 64 * 2**20))
    return all(ctypes.CDLL(None).mallopt(*setting) == 1 for setting in settings)


def never_destroy(value: object) -> None:
    """Never destroy a Python object, not even at the end of the process."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(value))
