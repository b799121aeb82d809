"""Fetch the official files of a task into the layout that the readers expect.

python -m data.download SST-2 DREAM
python -m data.download --list
"""

import argparse
import contextlib
import hashlib
import http.client
import os
import shutil
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from filelock import FileLock, Timeout
from tqdm import tqdm

from data.readers import task_folder
from data.sources import GLUE, SOURCES, Remote, Source, Sums
from data.tasks import find_name
from utils import InputError, Parser, atomic_file, file_sha256, log, open_zip, run_script

BLOCK = 1 << 16  # bytes
TIMEOUT = 60  # seconds without a byte
WAITS = (0, 2, 8)  # seconds before each retry after a broken connection


def main(argv: Sequence[str] | None = None) -> None:
    """Fetch the requested tasks; if one fails, the others are still fetched.

    Raises:
        InputError: a task is unknown, or could not be fetched.
    """
    args = parse_arguments(argv)
    sources = chosen(args.tasks or ["all"])
    if args.list:
        print("\n\n".join(describe(source, args.data_dir) for source in sources))
        return
    failed = []
    for source in sources:
        if source.instead and "all" in map(str.lower, args.tasks):
            log.info(f"{source.name}: left out: {instead(source, args.data_dir)}")
            continue
        try:
            download(source, args.data_dir)
        except InputError as error:
            if len(sources) == 1:
                raise
            log.error(f"{source.name}: {error}")
            failed.append(source.name)
    if failed:
        raise InputError(f"could not be fetched: {', '.join(failed)} (see the reasons above)")


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The arguments.

    Raises:
        InputError: neither a task nor --list is given.
    """
    parser = Parser(description="Fetch the official files of tasks.", allow_abbrev=False)
    parser.add_argument(
        "tasks", nargs="*", metavar="TASK", help=f"upper or lower case: {', '.join(SOURCES)}, glue, all"
    )
    parser.add_argument(
        "--data_dir", default="data/sets", help="where to make a folder per task (default: %(default)s)"
    )
    parser.add_argument("--list", action="store_true", help="show size, licence, terms and origin; fetch nothing")
    args = parser.parse_args(argv)
    if not args.tasks and not args.list:
        raise InputError("nothing to do: name a task, glue or all (see --list)")
    return args


def chosen(names: Sequence[str]) -> list[Source]:
    """The sources for task names in any case, including `glue` and `all`; each source once.

    Raises:
        InputError: a name is unknown; the message suggests the nearest.
    """
    groups = {"glue": GLUE, "all": tuple(SOURCES)}
    found = [find_name(name, [*SOURCES, *groups], name) for name in names]
    return [SOURCES[task] for task in dict.fromkeys(task for name in found for task in groups.get(name, (name,)))]


def describe(source: Source, data_dir: str | Path) -> str:
    """Size, licence, terms and origin of a task's files, as lines of text."""
    if source.instead:
        return f"{source.name}\n  terms: {source.terms}\n  to do: {instead(source, data_dir)}"
    addresses = "\n        ".join(remote.url for remote in source.remotes)
    return (
        f"{source.name}, {source.megabytes:g} MB\n  terms: {source.terms}\n"
        f"  from: {addresses}\n  checksums: {source.sums_from}"
    )


def instead(source: Source, data_dir: str | Path) -> str:
    """What to do for a task that cannot be fetched freely."""
    return source.instead.format(folder=Path(data_dir) / source.name)


def download(source: Source, data_dir: str | Path) -> None:
    """Put a task's files into `<data_dir>/<name>` (in any case), except verified ones that are already there.

    Raises:
        InputError: the task cannot be fetched freely, the network or the server fails, or the downloaded file is not
            the official one. No file is left half-written; a download that can be continued is kept as `*.part`.
    """
    if source.instead:
        raise InputError(f"{source.name}: {instead(source, data_dir)}")
    try:
        folder = task_folder(data_dir, source.name)
    except InputError:
        folder = Path(data_dir) / source.name
    try:
        built = _buildable(source, folder)
        for remote in () if built else source.remotes:
            if not _in_place(folder, remote.files):
                with _alone(folder):
                    _fetch_remote(remote, folder)
        if source.build and not _in_place(folder, source.built):
            for name, text in (built or source.build(folder)).items():
                with _verified(folder / name, source.built[name], f"{folder / name}, as built") as temporary:
                    temporary.write_text(text, encoding="utf-8", newline="\n")
    except OSError as error:
        raise InputError(f"{error.filename or folder}: cannot be written ({error.strerror or error})") from None
    finally:
        # Fails unless the folder is empty. An empty folder left behind would look like a task that is there.
        with contextlib.suppress(OSError):
            folder.rmdir()
    log.info(f"{source.name}: complete in {folder}")


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Context in which no other process fetches into the folder.

    Raises:
        InputError: another one is doing so.
    """
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / ".download.lock"
    lock = FileLock(path, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise InputError(f"{folder}: another process fetches files into it: wait until it has ended") from None
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        lock.release()
        for place in made:
            with contextlib.suppress(OSError):  # it is not empty
                place.rmdir()


def _buildable(source: Source, folder: Path) -> Mapping[str, str] | None:
    """The built files, if the files in the folder already give exactly the expected ones: nothing is fetched then.

    The files that they are built from may differ from those that would be fetched.
    """
    if not source.build:
        return None
    try:
        built = source.build(folder)
    except (OSError, ValueError):  # a file is missing, or has other content
        return None
    sums = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in built.items()}
    return built if all(known in ("", sums[name]) for name, known in source.built.items()) else None


def fetch(url: str, part: Path) -> None:
    """Fetch a URL into `part`, continuing an earlier call if the server supports that.

    Raises:
        InputError: the server cannot be reached, answers with an error, or breaks off too often. The received part is
            kept.
    """
    # pooch would do everything else, but it never asks for a range: over an unreliable connection, MNLI's 300 MB would
    # start from zero each time.
    before = _size(part)
    for wait in (*WAITS, None):
        try:
            if _receive(url, part):
                return
            problem = "the connection broke off"
        except urllib.error.HTTPError as error:
            raise InputError(f"{url}: the server answers {error.code} {error.reason}") from None
        except (OSError, http.client.HTTPException) as error:
            problem = str(getattr(error, "reason", error))
        # A server that sent nothing in this call is unavailable: retrying would only make the user wait.
        if wait is None or _size(part) == before:
            break
        log.warning(f"{url}: {problem} after {_size(part)} bytes; trying again")
        time.sleep(wait)
    kept = f"; {_size(part)} bytes are kept, and the same command goes on from there" if _size(part) else ""
    raise InputError(f"{url}: cannot be fetched ({problem}){kept}")


def _receive(url: str, part: Path) -> bool:
    """Append to `part` what the server sends of the missing rest; True when the file is complete."""
    start = _size(part)
    request = urllib.request.Request(url, headers={"Range": f"bytes={start}-"} if start else {})
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE or not start:
            raise
        if error.headers.get("Content-Range") == f"bytes */{start}":
            return True
        part.unlink()  # longer than the file: it belongs to another file
        return _receive(url, part)
    with response:
        if response.status != http.HTTPStatus.PARTIAL_CONTENT:
            start = 0  # the server ignores ranges and sends everything
        length = response.headers.get("Content-Length")
        total = start + int(length) if length else None
        part.parent.mkdir(parents=True, exist_ok=True)
        interval = 0.5 if sys.stderr.isatty() else 30
        with (
            open(part, "ab" if start else "wb") as file,
            tqdm(desc=part.stem, total=total, initial=start, unit="B", unit_scale=True, mininterval=interval) as bar,
        ):
            while block := response.read(BLOCK):
                file.write(block)
                bar.update(len(block))
    return total is None or _size(part) == total


def _fetch_remote(remote: Remote, folder: Path) -> None:
    """Fetch one URL, verify it, and put its file or the files of its archive in place."""
    name = remote.url.rsplit("/", 1)[-1] if remote.inside else next(iter(remote.files))
    part = folder / f"{name}.part"
    fetch(remote.url, part)
    try:
        _check(part, remote.sha256, remote.url)
        if remote.inside:
            _unpack(part, remote, folder)
        else:
            _set_aside(folder / name)
            os.replace(part, folder / name)
    except InputError as error:
        if not isinstance(error.__cause__, OSError):  # a disk that is full does not make it wrong
            part.unlink()
        raise
    part.unlink(missing_ok=True)


def _unpack(archive: Path, remote: Remote, folder: Path) -> None:
    with open_zip(archive, remote.url) as members:
        missing = [name for name in remote.files if f"{remote.inside}/{name}" not in members.namelist()]
        if missing:
            raise InputError(f"{remote.url}: the archive has no {remote.inside}/{missing[0]}; it is not kept")
        for name, sha256 in remote.files.items():
            if _in_place(folder, {name: sha256}):
                continue
            with (
                _verified(folder / name, sha256, f"{remote.url}, {name}") as temporary,
                members.open(f"{remote.inside}/{name}") as packed,
                open(temporary, "wb") as file,
            ):
                shutil.copyfileobj(packed, file)


@contextlib.contextmanager
def _verified(path: Path, sha256: str, origin: str) -> Iterator[Path]:
    """Yield a temporary path; it is renamed to `path` if the block succeeds and the checksum is right."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as temporary:
        yield temporary
        _check(temporary, sha256, origin)
        _set_aside(path)


def _check(path: Path, sha256: str, origin: str) -> None:
    if sha256 and (found := file_sha256(path)) != sha256:
        raise InputError(f"{origin}: wrong checksum (sha256 {found}, should be {sha256}); the file is not kept")


def _in_place(folder: Path, files: Sums) -> bool:
    return all(
        (folder / name).is_file() and (not sha256 or file_sha256(folder / name) == sha256)
        for name, sha256 in files.items()
    )


def _set_aside(path: Path) -> None:
    """Rename an existing file to `*.old`: if it is not the official one, it may be the user's own work."""
    if path.exists():
        log.warning(f"{path}: not the official file; kept as {path.name}.old")
        os.replace(path, path.with_name(f"{path.name}.old"))


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


if __name__ == "__main__":
    run_script(main)
