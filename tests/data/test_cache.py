"""The token cache gives what was tokenised afresh, from the files as they are, and mends itself."""

import dataclasses
import errno
import json
import logging
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from conftest import save_tiny_encoder
from filelock import FileLock
from script_runs import message
from test_data import write
from transformers import AutoTokenizer

from data import cache
from data.cache import StoredFeatures, cached
from data.features import Features, choice_features, sentence_features, word_features
from data.readers import Examples
from data.tasks import CHOICE_TASKS, SENTENCE_TASKS, TOKEN_TASKS
from utils import file_sha256

SST, STS, DREAM, WNUT = (
    (SENTENCE_TASKS | CHOICE_TASKS | TOKEN_TASKS)[name] for name in ("SST-2", "STS-B", "DREAM", "WNUT-2017")
)


@pytest.fixture(autouse=True)
def small_sets_too(monkeypatch):
    monkeypatch.setattr(cache, "CACHED_FROM", 0)
    monkeypatch.setattr(Features, "CHUNK", 2)


@pytest.fixture
def sentences(tmp_path) -> Examples:
    rows = ["a warm film\t1", "a dull plot and more of it and more of it\t0", "a film\t0"]
    return Examples(SST, [write(tmp_path / "train.tsv", "sentence\tlabel", *rows)], labelled=True)


def folders(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "cache").iterdir() if path.is_dir())


def made(make, seen: list):
    """`make`, which notes how many examples it is given."""

    def noted(examples, *args, **settings):
        seen.append(len(examples))
        return make(examples, *args, **settings)

    noted.__name__ = make.__name__
    return noted


def sets(folder: Path) -> dict:
    """One set of each kind, with what makes its features."""
    question = {"question": "a ____ film", "choice": ["warm", "dull"], "answer": "dull"}
    dialogues = write(folder / "train.json", json.dumps([[["M: a film", "W: a plot"], [question], "1"]] * 3))
    sentence = ["film\tO", "Plot\tB-group", "\u0301\tO", ""]  # nothing is left of a lone accent
    words = write(folder / "train.txt", "film\tO", "", *sentence, *sentence)
    header = "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore"
    scores = write(folder / "train.tsv", header, *("g\t" * 7 + f"a film\ta plot\t{score}" for score in (1.25, 3, 0.0)))
    test = write(folder / "test.tsv", "index\tsentence", "7\ta film")
    return {
        "pairs": (Examples(STS, [scores], True), sentence_features),
        "unlabelled": (Examples(SST, [test], False), sentence_features),
        "choices": (Examples(DREAM, [dialogues], True), choice_features),
        "words": (Examples(WNUT, [words], True), word_features),
    }


@pytest.mark.parametrize("kind", ["pairs", "unlabelled", "choices", "words"])
def test_features_from_the_cache_are_those_made_afresh(kind, tokenizer, tmp_path):
    examples, make = sets(tmp_path)[kind]
    fresh = make(examples, tokenizer, max_seq_length=10)
    seen = []
    for _ in range(2):
        found = cached(str(tmp_path / "cache"), made(make, seen), tokenizer, max_seq_length=10)(examples)
        assert isinstance(found, StoredFeatures)
        rows = [fresh[row] for row in range(len(fresh))]
        assert [found[row] for row in range(len(found))] == found.__getitems__(list(range(len(found)))) == rows
        assert found.__getitems__([]) == []
        assert found.lengths == fresh.lengths
        assert found.report == pytest.approx(fresh.report)
        assert list(found.examples) == list(examples)
        assert found.columns.keys() == fresh.columns.keys()
        assert (found.first_tokens and list(found.first_tokens)) == fresh.first_tokens
        if "labels" in fresh.columns:
            assert found.columns["labels"][:] == fresh.columns["labels"]
    assert sum(seen) == len(fresh)  # once in all, in chunks of two
    assert max(seen) <= 2


def test_the_text_is_not_read_again(sentences, tokenizer, tmp_path, monkeypatch):
    use = cached(str(tmp_path / "cache"), sentence_features, tokenizer, max_seq_length=16)
    use(sentences)
    monkeypatch.setattr(Examples, "read", lambda self: pytest.fail("the files were read"))
    assert len(use(Examples(SST, sentences.paths, True))) == 3


def test_what_the_readers_said_is_said_again(tokenizer, tmp_path, caplog):
    caplog.set_level(logging.INFO, "asa")
    row = "6\t1\t2\tA plot?\tThe plot?\t1"
    path = write(tmp_path / "train.tsv", "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate", row, "7\t1", row)
    for _ in range(2):
        caplog.clear()
        examples = Examples(SENTENCE_TASKS["QQP"], [path], True)
        assert len(cached(str(tmp_path / "cache"), sentence_features, tokenizer, max_seq_length=16)(examples)) == 2
        assert "1 row with too few columns is left out (line 3)" in caplog.text
    assert "2 examples, tokenised earlier" in caplog.text


def test_whatever_changes_the_features_changes_the_key(sentences, tokenizer, tmp_path, encoder_folder, monkeypatch):
    def use(examples=sentences, with_=tokenizer, length=16):
        cached(str(tmp_path / "cache"), sentence_features, with_, max_seq_length=length)(examples)
        return len(folders(tmp_path))

    assert use() == 1
    tokenizer("a film", truncation=True, max_length=3, padding="max_length")  # leaves its settings behind
    assert use() == 1
    assert use(with_=AutoTokenizer.from_pretrained(encoder_folder)) == 1
    assert use(length=9) == 2
    save_tiny_encoder(tmp_path / "encoder")
    file = tmp_path / "encoder" / "tokenizer.json"
    file.write_text(file.read_text().replace('"lowercase": true', '"lowercase": false'))
    assert use(with_=AutoTokenizer.from_pretrained(tmp_path / "encoder", do_lower_case=False)) == 3
    assert use(Examples(dataclasses.replace(SST, labels=("1", "0")), sentences.paths, True)) == 4
    assert use(Examples(SST, sentences.paths, False)) == 5
    time = os.stat(sentences.paths[0])
    path = write(sentences.paths[0], "sentence\tlabel", "a warm film\t1", "a film\t1")
    os.utime(path, ns=(time.st_atime_ns, time.st_mtime_ns))  # the content counts, not the clock
    assert use(Examples(SST, [path], True)) == 6
    assert use(Examples(SST, [path.rename(tmp_path / "moved.tsv")], True)) == 6

    folder = str(tmp_path / "cache")
    examples, make = sets(tmp_path)["choices"]
    for settings in ({}, {"protocol": "release"}, {"truncation": "only_first"}):
        cached(folder, make, tokenizer, max_seq_length=40, **settings)(examples)
    assert len(folders(tmp_path)) == 9
    assert use(Examples(SST, [tmp_path / "moved.tsv"], True, evaluated=True)) == 10
    with monkeypatch.context() as patch:
        patch.setattr(cache, "version", lambda package: f"another {package}")
        assert use(Examples(SST, [tmp_path / "moved.tsv"], True)) == 11
    monkeypatch.setattr(cache, "file_sha256", lambda path: f"{path}" if path.suffix == ".py" else file_sha256(path))
    assert use(Examples(SST, [tmp_path / "moved.tsv"], True)) == 12


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGE = {
    "cut": ("rows.arrow", cut),
    "a bit": ("rows.arrow", flip),
    "no rows": ("rows.arrow", Path.unlink),
    "no record": ("about.json", Path.unlink),
    "no JSON": ("about.json", lambda path: path.write_text("{")),
    "other JSON": ("about.json", lambda path: path.write_text("[]")),
    "empty": ("about.json", lambda path: path.write_text("")),
}


@pytest.mark.parametrize("damage", sorted(DAMAGE))
def test_a_damaged_cache_is_made_again(damage, sentences, tokenizer, tmp_path):
    use = cached(str(tmp_path / "cache"), sentence_features, tokenizer, max_seq_length=16)
    expected = [dict(row) for row in use(sentences)]
    name, spoil = DAMAGE[damage]
    spoil(tmp_path / "cache" / folders(tmp_path)[0] / name)
    seen = []
    for _ in range(2):
        again = cached(str(tmp_path / "cache"), made(sentence_features, seen), tokenizer, max_seq_length=16)
        assert list(again(sentences)) == expected
    assert seen == [2, 1]
    assert len(folders(tmp_path)) == 1


def test_of_two_at_once_one_works(sentences, tokenizer, encoder_folder, tmp_path):
    seen, found = [], []
    both = threading.Barrier(2, timeout=60)

    def start():
        own = AutoTokenizer.from_pretrained(encoder_folder)
        both.wait()
        use = cached(str(tmp_path / "cache"), made(sentence_features, seen), own, max_seq_length=16)
        found.append(list(use(Examples(SST, sentences.paths, True))))

    threads = [threading.Thread(target=start) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [2, 1]
    assert found[0] == found[1] == list(sentence_features(sentences, tokenizer, 16))


PROCESS = """
import json, sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from transformers import AutoTokenizer
from data import cache, features, readers, tasks

def sentence_features(*args, **settings):
    print("making", flush=True)
    sys.stdin.readline()
    return features.sentence_features(*args, **settings)

cache.CACHED_FROM, features.Features.CHUNK = 0, 2
use = cache.cached(sys.argv[2], sentence_features, AutoTokenizer.from_pretrained(sys.argv[3]), max_seq_length=16)
print("starts", flush=True)
print(json.dumps(list(use(readers.Examples(tasks.SENTENCE_TASKS["SST-2"], [Path(sys.argv[4])], True)))))
"""


def test_of_processes_one_works_and_replaces_a_killed_one(sentences, tokenizer, encoder_folder, tmp_path):
    """The first is killed with a part of the rows written, while two others wait for it."""
    given = [str(Path(cache.__file__).parent.parent), str(tmp_path / "cache"), encoder_folder, str(sentences.paths[0])]
    command = [sys.executable, "-c", PROCESS, *given]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen(command, **pipes)]
    try:
        first = processes[0]
        assert [first.stdout.readline() for _ in range(2)] == ["starts\n", "making\n"]
        print(file=first.stdin, flush=True)
        assert first.stdout.readline() == "making\n"  # the second chunk
        processes += [subprocess.Popen(command, **pipes) for _ in range(2)]
        assert [process.stdout.readline() for process in processes[1:]] == ["starts\n"] * 2
        assert [path.suffix for path in (tmp_path / "cache").iterdir() if path.is_dir()] == [".tmp"]
        first.kill()
        first.wait()
        for process in processes[1:]:  # both, as nobody knows which of them works
            process.stdin.write("\n\n")
            process.stdin.flush()
        said = [process.communicate(timeout=120)[0].splitlines() for process in processes[1:]]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    rows = said[0][-1]
    assert sorted(said, key=len) == [[rows], ["making", "making", rows]]
    assert json.loads(rows) == list(sentence_features(sentences, tokenizer, 16))
    assert len(folders(tmp_path)) == 1


def test_a_new_set_takes_the_room_of_those_used_longest_ago(sentences, tokenizer, tmp_path, monkeypatch):
    names = {}

    def use(length):
        found = cached(str(tmp_path / "cache"), sentence_features, tokenizer, max_seq_length=length)(sentences)
        names.update({name: length for name in folders(tmp_path) if name not in names})
        return found

    held = [use(length) for length in (9, 10, 11)][1]
    rows = list(held)

    def used_long_ago():
        for name in folders(tmp_path):
            os.utime(tmp_path / "cache" / name / "about.json", (names[name], names[name]))

    used_long_ago()
    use(9)  # no longer the oldest
    size = sum(path.stat().st_size for path in (tmp_path / "cache" / next(iter(names))).iterdir())
    monkeypatch.setattr(cache, "KEPT", 3.5 * size)
    use(12)
    assert sorted(names[name] for name in folders(tmp_path)) == [9, 11, 12]
    assert list(held) == rows  # still mapped
    assert list(use(10)) == rows
    monkeypatch.setattr(cache, "KEPT", 0)
    use(13)
    assert sorted(names[name] for name in folders(tmp_path)) == [9, 10, 12, 13]  # used within the hour
    used_long_ago()
    use(14)
    assert [names[name] for name in folders(tmp_path)] == [14]


def test_room_is_made_of_the_cache_s_own_folders_alone(sentences, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "KEPT", 0)
    folder = tmp_path / "cache"
    killed, writing, finished = (f"SST-2-{digit * 24}" for digit in "abc")
    for name in (f".{killed}.tmp", f".{killed}.old", f".{writing}.tmp", finished, "notes", "SST-2-mine"):
        (folder / name).mkdir(parents=True)
        (folder / name / "about.json").write_text("{}")
        os.utime(folder / name / "about.json", (1, 1))
    with FileLock(folder / f"{writing}.lock"):
        cached(str(folder), sentence_features, tokenizer, max_seq_length=16)(sentences)
    left = [name for name in folders(tmp_path) if (folder / name / "rows.arrow").exists() is False]
    assert left == [f".{writing}.tmp", "SST-2-mine", "notes"]


def test_a_folder_that_cannot_be_used_is_no_obstacle(sentences, tokenizer, tmp_path, caplog):
    (tmp_path / "cache").write_text("a file is in the way")
    found = cached(str(tmp_path / "cache"), sentence_features, tokenizer, max_seq_length=16)(sentences)
    assert not isinstance(found, StoredFeatures)
    assert len(found) == 3
    assert "cannot be used" in caplog.text


@pytest.mark.parametrize("writes", ["datasets.arrow_writer.ArrowWriter.write_batch", "data.cache.write_json"])
def test_a_full_disk_is_no_obstacle(writes, sentences, tokenizer, tmp_path, monkeypatch, caplog):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(writes, full)
    folder = tmp_path / "cache"
    found = cached(str(folder), sentence_features, tokenizer, max_seq_length=16)(sentences)
    assert not isinstance(found, StoredFeatures)
    assert len(found) == 3
    said = f"--token_cache_dir {folder}: cannot be used (No space left on device); going on without a cache"
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == [said]
    assert folders(tmp_path) == []


def test_a_row_that_cannot_be_read_is_an_error_with_a_cache_too(sentences, tokenizer, tmp_path):
    write(sentences.paths[0], "sentence\tlabel", "a film\t2")
    use = cached(str(tmp_path / "cache"), sentence_features, tokenizer, max_seq_length=16)
    assert message(use, sentences).endswith("line 2: unknown label '2'; SST-2 has 0, 1")


def test_small_sets_and_no_cache(sentences, tokenizer, tmp_path, monkeypatch):
    cached(None, sentence_features, tokenizer, max_seq_length=16)(sentences)
    monkeypatch.setattr(cache, "CACHED_FROM", sentences.size() + 1)
    cached(str(tmp_path / "cache"), sentence_features, tokenizer, max_seq_length=16)(sentences)
    assert not (tmp_path / "cache").exists()
