"""Fetching data, from a server on localhost that hands out small files of our own."""

import hashlib
import http.server
import io
import logging
import os
import re
import socket
import stat
import threading
import zipfile
from pathlib import Path, PurePosixPath

import pytest
from script_runs import exit_status

from data import download as downloader
from data import readers
from data.download import chosen, download, main
from data.sources import GLUE, SOURCES, Remote, Source, build_mrpc
from data.tasks import SENTENCE_TASKS
from utils import InputError

TRAIN = "sentence\tlabel\na warm film\t1\na cold film\t0\n"
DEV = "sentence\tlabel\na long film\t0\n"
TEST = "index\tsentence\n0\ta short film\n"
LONG = bytes(range(256)) * 1000


def sha256(content: bytes | str) -> str:
    return hashlib.sha256(content.encode() if isinstance(content, str) else content).hexdigest()


def zipped(members: dict[str, str]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in members.items():
            archive.writestr(name, text)
    return buffer.getvalue()


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves `server.files`, breaks off as `server.breaks` says and keeps what it was asked in `server.requests`."""

    def do_GET(self):
        name = self.path[1:]
        asked = self.headers.get("Range")
        self.server.requests.append((name, asked))
        if name not in self.server.files:
            self.send_error(404)
            return
        content = self.server.files[name]
        start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1]) if asked and self.server.ranges else 0
        if start >= len(content) and start:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        breaks = self.server.breaks.get(name)
        self.wfile.write(content[start : breaks.pop(0) if breaks else None])

    def log_message(self, *args):
        pass


class Server(http.server.ThreadingHTTPServer):
    """files: name -> content; breaks: name -> at which byte each of the next answers ends; ranges: honoured or not."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.breaks, self.requests, self.ranges = {}, {}, [], True

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.server_port}/{name}"

    def plain(self, name: str, content: bytes, known: str | None = None) -> Remote:
        """Serve a file; `known` is the checksum to expect, by default the right one."""
        self.files[name] = content
        known = sha256(content) if known is None else known
        return Remote(self.url(name), known, {name: known})

    def archive(self, name: str, members: dict[str, str], inside: str) -> Remote:
        """Serve a zip archive, all of whose members are in the folder `inside` and wanted."""
        self.files[name] = zipped(members)
        wanted = {path.removeprefix(f"{inside}/"): sha256(text) for path, text in members.items()}
        return Remote(self.url(name), sha256(self.files[name]), wanted, inside)


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def long_file(server: Server) -> Source:
    return Source("Long", "our own", remotes=(server.plain("long.bin", LONG),))


def sst2(server: Server) -> Source:
    members = {"SST-2/train.tsv": TRAIN, "SST-2/dev.tsv": DEV, "SST-2/test.tsv": TEST}
    return Source("SST-2", "our own", remotes=(server.archive("SST-2.zip", members, "SST-2"),))


def everything_under(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_archive_lands_where_the_readers_look(server, tmp_path):
    download(sst2(server), tmp_path)
    assert everything_under(tmp_path) == ["SST-2", "SST-2/dev.tsv", "SST-2/test.tsv", "SST-2/train.tsv"]
    task = SENTENCE_TASKS["SST-2"]
    folder = readers.task_folder(tmp_path, "SST-2")
    train = readers.read_set(task, task.train, folder, labelled=True)
    test = readers.read_set(task, task.test["SST-2"], folder, labelled=False)
    assert [(example.texts, example.label) for example in train] == [(("a warm film",), 1), (("a cold film",), 0)]
    assert [example.texts for example in test] == [("a short film",)]


def test_archive_with_folders_inside(server, tmp_path):
    row = '{{"context": "It {0}.", "hypothesis": "Water falls.", "label": "e"}}\n'
    members = {
        f"anli_v1.0/{part}/{split}.jsonl": row.format(f"rains in {part}")
        for part in ("R1", "R2", "R3")
        for split in ("train", "dev", "test")
    }
    download(Source("ANLI", "our own", remotes=(server.archive("anli.zip", members, "anli_v1.0"),)), tmp_path)
    task = SENTENCE_TASKS["ANLI"]
    examples = readers.read_set(task, task.dev["ANLI"], tmp_path / "ANLI", labelled=True)
    assert [example.texts[0] for example in examples] == ["It rains in R1.", "It rains in R2.", "It rains in R3."]


def test_second_call_fetches_nothing(server, tmp_path):
    for source in (sst2(server), long_file(server)):
        download(source, tmp_path)
        asked = len(server.requests)
        download(source, tmp_path)
        assert len(server.requests) == asked


def test_two_at_once_are_refused(server, tmp_path):
    source = long_file(server)
    said = "Long: another process fetches files into it: wait until it has ended"
    with downloader._alone(tmp_path / "Long"), pytest.raises(InputError, match=said):
        download(source, tmp_path)
    download(source, tmp_path)
    assert everything_under(tmp_path) == ["Long", "Long/long.bin"]


def test_folder_in_another_case_is_used(server, tmp_path):
    (tmp_path / "sst-2").mkdir()
    download(sst2(server), tmp_path)
    assert everything_under(tmp_path) == ["sst-2", "sst-2/dev.tsv", "sst-2/test.tsv", "sst-2/train.tsv"]


def test_file_that_is_not_the_official_one_is_kept_aside(server, tmp_path):
    folder = tmp_path / "SST-2"
    folder.mkdir()
    (folder / "train.tsv").write_text("my own work")
    (folder / "dev.tsv").write_text(DEV)
    download(sst2(server), tmp_path)
    assert (folder / "train.tsv").read_text() == TRAIN
    assert (folder / "train.tsv.old").read_text() == "my own work"
    assert not (folder / "dev.tsv.old").exists()


def test_broken_connection_is_continued_in_the_same_call(server, tmp_path):
    server.breaks["long.bin"] = [100_000]
    download(long_file(server), tmp_path)
    assert server.requests == [("long.bin", None), ("long.bin", "bytes=100000-")]
    assert (tmp_path / "Long" / "long.bin").read_bytes() == LONG
    assert everything_under(tmp_path) == ["Long", "Long/long.bin"]


def test_broken_connection_is_continued_in_the_next_call(server, tmp_path, monkeypatch):
    monkeypatch.setattr(downloader, "WAITS", (0, 0, 0))
    server.breaks["long.bin"] = [100_000, 150_000, 180_000, 200_000]
    with pytest.raises(InputError, match=r"long\.bin: cannot be fetched .* 200000 bytes are kept"):
        download(long_file(server), tmp_path)
    assert everything_under(tmp_path) == ["Long", "Long/long.bin.part"]
    download(long_file(server), tmp_path)
    assert [asked for _, asked in server.requests] == [
        None,
        "bytes=100000-",
        "bytes=150000-",
        "bytes=180000-",
        "bytes=200000-",
    ]
    assert (tmp_path / "Long" / "long.bin").read_bytes() == LONG
    assert everything_under(tmp_path) == ["Long", "Long/long.bin"]


def test_broken_archive_is_continued(server, tmp_path):
    source = sst2(server)
    server.breaks["SST-2.zip"] = [50]
    download(source, tmp_path)
    assert server.requests == [("SST-2.zip", None), ("SST-2.zip", "bytes=50-")]
    assert (tmp_path / "SST-2" / "train.tsv").read_text() == TRAIN


def test_server_that_ignores_ranges_starts_from_zero(server, tmp_path):
    server.ranges = False
    server.breaks["long.bin"] = [100_000]
    download(long_file(server), tmp_path)
    assert server.requests[-1] == ("long.bin", "bytes=100000-")
    assert (tmp_path / "Long" / "long.bin").read_bytes() == LONG


@pytest.mark.parametrize(
    ("part", "asked"),
    [(LONG, ["bytes=256000-"]), (LONG + b"more", ["bytes=256004-", None])],
    ids=["complete", "longer than the file"],
)
def test_part_that_was_complete_already(server, tmp_path, part, asked):
    (tmp_path / "Long").mkdir()
    (tmp_path / "Long" / "long.bin.part").write_bytes(part)
    download(long_file(server), tmp_path)
    assert [ranges for _, ranges in server.requests] == asked
    assert (tmp_path / "Long" / "long.bin").read_bytes() == LONG


def test_wrong_checksum_is_not_kept(server, tmp_path):
    source = Source("Long", "our own", remotes=(server.plain("long.bin", LONG, known=sha256("something else")),))
    message = rf"wrong checksum \(sha256 {sha256(LONG)}, should be {sha256('something else')}\); the file is not kept"
    with pytest.raises(InputError, match=message):
        download(source, tmp_path)
    assert everything_under(tmp_path) == []


def test_wrong_checksum_of_an_archive_or_its_member_is_not_kept(server, tmp_path):
    good = sst2(server).remotes[0]
    wrong = {**good.files, "train.tsv": sha256("something else")}
    for remote in (Remote(good.url, sha256("other"), good.files, "SST-2"), Remote(good.url, "", wrong, "SST-2")):
        with pytest.raises(InputError, match="wrong checksum"):
            download(Source("SST-2", "our own", remotes=(remote,)), tmp_path)
        assert everything_under(tmp_path) == []


def test_checksum_that_is_not_known(server, tmp_path):
    source = Source("Long", "our own", remotes=(server.plain("long.bin", LONG, known=""),))
    download(source, tmp_path)
    download(source, tmp_path)
    assert (tmp_path / "Long" / "long.bin").read_bytes() == LONG
    assert len(server.requests) == 1


def test_missing_file_leaves_nothing(server, tmp_path):
    source = Source("Gone", "our own", remotes=(Remote(server.url("gone.tsv"), "", {"gone.tsv": ""}),))
    with pytest.raises(InputError, match=r"gone\.tsv: the server answers 404"):
        download(source, tmp_path / "sets")
    assert everything_under(tmp_path) == []
    assert len(server.requests) == 1


def test_unreachable_server_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))  # nobody else's while this lasts
        address = f"http://127.0.0.1:{deaf.getsockname()[1]}/long.bin"
        source = Source("Long", "our own", remotes=(Remote(address, "", {"long.bin": ""}),))
        with pytest.raises(InputError, match=r"long\.bin: cannot be fetched \(.*refused"):
            download(source, tmp_path)
    assert everything_under(tmp_path) == []


def test_folder_that_cannot_be_made(server, tmp_path):
    (tmp_path / "Long").write_text("a file, where a folder should be")
    with pytest.raises(InputError, match=r"Long"):
        download(long_file(server), tmp_path)


@pytest.mark.parametrize("member", ["../escaped.tsv", "SST-2/../../escaped.tsv", "/escaped.tsv", "..\\escaped.tsv"])
def test_archive_that_climbs_out_is_refused_whole(server, tmp_path, member):
    content = zipped({"SST-2/train.tsv": TRAIN, member: "got out"})
    server.files["bad.zip"] = content
    remote = Remote(server.url("bad.zip"), sha256(content), {"train.tsv": sha256(TRAIN)}, "SST-2")
    with pytest.raises(InputError, match=r"refused, its member .*escaped\.tsv' leads out of the folder"):
        download(Source("SST-2", "our own", remotes=(remote,)), tmp_path / "sets")
    assert everything_under(tmp_path) == []


@pytest.mark.parametrize("kind", ["S_IFLNK", "S_IFIFO", "S_IFCHR", "S_IFBLK", "S_IFSOCK"])
def test_archive_with_a_link_or_a_device_is_refused_whole(server, tmp_path, kind):
    link = zipfile.ZipInfo("SST-2/link")
    link.external_attr = (getattr(stat, kind) | 0o777) << 16
    content = zipped({"SST-2/train.tsv": TRAIN, link: "../.."})
    server.files["bad.zip"] = content
    remote = Remote(server.url("bad.zip"), sha256(content), {"train.tsv": sha256(TRAIN)}, "SST-2")
    with pytest.raises(InputError, match="refused, its member 'SST-2/link'"):
        download(Source("SST-2", "our own", remotes=(remote,)), tmp_path)
    assert everything_under(tmp_path) == []


def test_archive_that_is_none_or_lacks_a_file(server, tmp_path):
    server.files["page.zip"] = b"<html>please log in</html>"
    server.files["thin.zip"] = zipped({"SST-2/dev.tsv": DEV})
    whole = zipped({"SST-2/train.tsv": TRAIN, "SST-2/dev.tsv": DEV})
    server.files["cut.zip"] = whole[: len(whole) // 2]
    # The flag of an encrypted member, and a method of compression that nobody has, in both headers of each member.
    for name, offsets, value in (("locked.zip", (6, 8), 1), ("packed.zip", (8, 10), 77)):
        spoilt = bytearray(whole)
        for header, offset in zip((b"PK\3\4", b"PK\1\2"), offsets, strict=True):
            for found in re.finditer(header, whole):
                spoilt[found.start() + offset] = value
        server.files[name] = bytes(spoilt)
    for name, message in (
        ("page.zip", "not a readable zip"),
        ("cut.zip", "not a readable zip"),
        ("locked.zip", "not a readable zip archive .*encrypted"),
        ("packed.zip", "not a readable zip archive .*compression"),
        ("thin.zip", "the archive has no SST-2/train.tsv"),
    ):
        remote = Remote(server.url(name), "", {"train.tsv": "", "dev.tsv": ""}, "SST-2")
        with pytest.raises(InputError, match=message):
            download(Source("SST-2", "our own", remotes=(remote,)), tmp_path)
        assert everything_under(tmp_path) == []


HEADER = "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\n"
PAIRS = ["1\t11\t12\tIt rained .\tRain fell .\n", '0\t21\t22\tHe said " no .\tShe\x85left .\n', "1\t31\t32\tA .\tB .\n"]


def mrpc(server: Server, **changes: bytes) -> Source:
    contents = {
        "msr_paraphrase_train.txt": (HEADER + "".join(PAIRS)).encode(),
        "msr_paraphrase_test.txt": (HEADER + PAIRS[2] + PAIRS[0]).encode(),
        "mrpc_dev_ids.tsv": b"21\t22\n",
    } | changes
    remotes = tuple(server.plain(name, content) for name, content in contents.items())
    built = {
        "train.tsv": sha256(HEADER + PAIRS[0] + PAIRS[2]),
        "dev.tsv": sha256(HEADER + PAIRS[1]),
        "test.tsv": "",
    }
    return Source("MRPC", "our own", remotes=remotes, build=build_mrpc, built=built)


def test_mrpc_is_rebuilt_as_glue_does(server, tmp_path):
    download(mrpc(server), tmp_path)
    folder = tmp_path / "MRPC"
    assert (folder / "train.tsv").read_bytes() == (HEADER + PAIRS[0] + PAIRS[2]).encode()
    assert (folder / "dev.tsv").read_bytes() == (HEADER + PAIRS[1]).encode()
    assert (folder / "test.tsv").read_text(encoding="utf-8") == (
        "index\t#1 ID\t#2 ID\t#1 String\t#2 String\n0\t31\t32\tA .\tB .\n1\t11\t12\tIt rained .\tRain fell .\n"
    )
    task = SENTENCE_TASKS["MRPC"]
    examples = readers.read_set(task, task.dev["MRPC"], folder, labelled=True)
    assert [(example.texts, example.label) for example in examples] == [(('He said " no .', "She\x85left ."), 0)]

    # What was built and then lost is built again, out of what is there.
    (folder / "dev.tsv").unlink()
    asked = len(server.requests)
    download(mrpc(server), tmp_path)
    assert (folder / "dev.tsv").read_bytes() == (HEADER + PAIRS[1]).encode()
    assert len(server.requests) == asked


def test_mrpc_row_that_lacks_a_column(server, tmp_path):
    source = mrpc(server, **{"msr_paraphrase_test.txt": (HEADER + "1\t11\t12\tIt rained .\n").encode()})
    with pytest.raises(InputError, match=r"msr_paraphrase_test\.txt, line 2: 4 columns where 5 are expected"):
        download(source, tmp_path)
    assert not (tmp_path / "MRPC" / "train.tsv").exists()


@pytest.fixture
def small_table(server, monkeypatch):
    """A table of two tasks that can be fetched, between them one that fails, and one that is not free."""
    gone = Source("RTE", "our own", remotes=(Remote(server.url("gone.zip"), "", {"train.tsv": ""}, "RTE"),))
    table = {row.name: row for row in (sst2(server), gone, long_file(server), SOURCES["PTB"])}
    monkeypatch.setattr(downloader, "SOURCES", table)
    return table


def test_command_fetches_a_task_in_any_case(small_table, tmp_path):
    assert exit_status(main, "sst-2", "LONG", "--data_dir", str(tmp_path)) == 0
    assert (tmp_path / "SST-2" / "train.tsv").read_text() == TRAIN
    assert (tmp_path / "Long" / "long.bin").read_bytes() == LONG


def test_command_says_what_is_wrong_in_one_sentence(small_table, tmp_path, capsys):
    for argv, message in (
        (("SST2",), "SST2: no such task; did you mean SST-2?"),
        (("rte", "--data_dir", str(tmp_path)), "gone.zip: the server answers 404"),
        (("ptb", "--data_dir", str(tmp_path)), f"train.txt, dev.txt and test.txt in {tmp_path}"),
        ((), "nothing to do"),
        (("--nonsense",), "unrecognized arguments: --nonsense"),
    ):
        assert exit_status(main, *argv) == 2
        lines = capsys.readouterr().err.strip().splitlines()
        assert len(lines) == 1
        assert message in lines[0]
    assert everything_under(tmp_path) == []


def test_all_goes_on_after_a_failure_and_leaves_out_what_is_not_free(small_table, tmp_path, capsys, caplog):
    caplog.set_level(logging.INFO)
    assert exit_status(main, "all", "--data_dir", str(tmp_path)) == 2
    assert (tmp_path / "SST-2" / "train.tsv").is_file()
    assert (tmp_path / "Long" / "long.bin").is_file()
    assert "could not be fetched: RTE (" in capsys.readouterr().err
    messages = [record.getMessage() for record in caplog.records]
    assert any(message.startswith("RTE: ") and "404" in message for message in messages)
    assert any(message.startswith("PTB: left out: the Penn Treebank cannot be fetched") for message in messages)


def test_list_shows_every_task_and_fetches_nothing(tmp_path, capsys):
    main(["--list", "--data_dir", str(tmp_path)])
    blocks = capsys.readouterr().out.strip().split("\n\n")
    assert [block.split("\n")[0].split(",")[0] for block in blocks] == list(SOURCES)
    for block, source in zip(blocks, SOURCES.values(), strict=True):
        assert f"terms: {source.terms}" in block
        assert all(remote.url in block for remote in source.remotes)
        assert (f"{source.megabytes:g} MB" in block) != bool(source.instead)
    assert everything_under(tmp_path) == []


def test_groups():
    assert [source.name for source in chosen(["wnli", "GLUE", "SST-2"])] == [
        "WNLI",
        *(name for name in GLUE if name != "WNLI"),
    ]
    assert [source.name for source in chosen(["ALL"])] == list(SOURCES)


def test_table_has_the_files_that_the_readers_look_for():
    for task in SENTENCE_TASKS.values():
        source = SOURCES[task.name]
        if source.instead:
            continue
        offered = {name for remote in source.remotes for name in remote.files} | set(source.built)
        offered |= {f"../AX/{name}" for name in SOURCES["AX"].remotes[0].files}
        for data_set in (*filter(None, [task.train]), *task.dev.values(), *task.test.values()):
            for names in data_set.files:
                assert offered & set(names), f"{task.name}: none of {names}"


def test_table_is_sound():
    for source in SOURCES.values():
        assert bool(source.remotes) != bool(source.instead)
        assert not source.instead or "{folder}" in source.instead
        for remote in source.remotes:
            assert remote.url.startswith("https://")
            assert re.fullmatch("[0-9a-f]{64}", remote.sha256)
            assert remote.inside or list(remote.files.values()) == [remote.sha256]
            assert all(re.fullmatch("([0-9a-f]{64})?", sum_) for sum_ in remote.files.values())
            assert not any(".." in PurePosixPath(name).parts for name in remote.files)


def test_missing_folder_names_the_command(tmp_path):
    for data_dir in (tmp_path, tmp_path / "none"):
        with pytest.raises(InputError, match=rf"python -m data\.download SST-2 --data_dir {data_dir}"):
            readers.task_folder(data_dir, "SST-2")


@pytest.mark.skipif("ASA_DATA_DIR" not in os.environ, reason="ASA_DATA_DIR names no folder of official files")
def test_checksums_of_the_official_files():
    checked = 0
    for source in SOURCES.values():
        sums = {name: known for remote in source.remotes for name, known in remote.files.items()} | source.built
        for name, known in sums.items():
            path = Path(os.environ["ASA_DATA_DIR"]) / source.name / name
            if known and path.is_file():
                assert sha256(path.read_bytes()) == known, path
                checked += 1
    assert checked


@pytest.mark.parametrize(("cause", "kept"), [(OSError(28, "No space left on device"), True), (None, False)])
def test_an_archive_is_kept_where_only_the_disk_is_full(cause, kept, tmp_path, monkeypatch):
    def unpack(*_):
        raise InputError("no") from cause

    monkeypatch.setattr(downloader, "fetch", lambda url, part: part.touch())
    monkeypatch.setattr(downloader, "_check", lambda *_: None)
    monkeypatch.setattr(downloader, "_unpack", unpack)
    remote = Remote("https://example.org/a.zip", "", {"train.tsv": ""}, inside="a")
    with pytest.raises(InputError):
        downloader._fetch_remote(remote, tmp_path)
    assert (tmp_path / "a.zip.part").exists() == kept
