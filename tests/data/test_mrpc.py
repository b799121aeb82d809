"""MRPC out of the corpus's own two files: which rows are of the dev set, and where the list of them is from."""

import argparse
import dataclasses
import hashlib
from pathlib import Path

import pytest
from script_runs import REAL_DATA, exit_status, message, needs_real_data, snapshot
from test_data import write
from test_readers import labels, texts

import data
from data import cache, download
from data.examples import Example
from data.features import sentence_features
from data.readers import read_set, read_splits
from data.tasks import SENTENCE_TASKS

MRPC = SENTENCE_TASKS["MRPC"]
MRPC_HEADER = "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String"
LISTED = [tuple(line.split()) for line in (Path(data.__path__[0]) / "mrpc_dev_ids.tsv").read_text().splitlines()]


def mrpc_splits(data_dir, eval_on: str = "dev"):
    flags = {"do_train": True, "do_eval": True, "do_test": True, "eval_on": eval_on, "eval_file": None}
    return read_splits(MRPC, argparse.Namespace(data_dir=data_dir, **flags))


def mrpc_folder(folder: Path, *more: str) -> Path:
    """Two rows of the training set around one of the dev set, by the ids."""
    (first, second), *_ = LISTED
    rows = ["1\t1\t2\ta film\tone", f"0\t{first}\t{second}\ta plot\ttwo", f"1\t{first}\t9\ta cast\tthree", *more]
    write(folder / "msr_paraphrase_train.txt", MRPC_HEADER, *rows)
    write(folder / "msr_paraphrase_test.txt", MRPC_HEADER, "1\t7\t8\ta score\tfour", "0\t8\t9\tmusic\tfive")
    return folder


def test_the_list_of_dev_ids_is_the_official_one():
    path = Path(data.__path__[0]) / "mrpc_dev_ids.tsv"
    recorded = "971d7767d81b997fd9060ade0ec23c4fc31cbb226a55d1bd4a1bac474eb81dc7"  # by `datasets`, of GLUE's file
    assert hashlib.sha256(path.read_bytes()).hexdigest() == recorded
    assert len(set(LISTED)) == 408


def test_mrpc_from_two_files(tmp_path, said):
    folder = mrpc_folder(tmp_path / "mrpc", "", "")
    before = snapshot(tmp_path)
    splits = mrpc_splits(tmp_path)
    assert list(splits.train) == [Example(("a film", "one"), 1, None), Example(("a cast", "three"), 1, None)]
    assert list(splits.eval["MRPC"]) == [Example(("a plot", "two"), 0, None)]
    assert [(row.texts, row.label) for row in splits.test["MRPC"]] == [
        (("a score", "four"), None),
        (("music", "five"), None),
    ]
    assert labels(mrpc_splits(tmp_path, "test").eval["MRPC"]) == [1, 0]
    assert snapshot(tmp_path) == before
    path = folder / "msr_paraphrase_train.txt"
    assert said() == [
        f"{path}: 2 of 3 rows, those that are not listed as dev rows",
        f"{path}: 1 of 3 rows, those that are listed as dev rows",
        f"{path}: it has 1 of the 408 rows that are listed as dev rows",
    ]


@pytest.mark.parametrize("name", ["mrpc_dev_ids.tsv", "dev_ids.tsv"])
def test_a_list_in_the_folder_comes_first(name, tmp_path):
    write(mrpc_folder(tmp_path / "MRPC") / name, "1\t2", "")
    splits = mrpc_splits(tmp_path)
    assert texts(splits.eval["MRPC"]) == [("a film", "one")]
    assert texts(splits.train) == [("a plot", "two"), ("a cast", "three")]
    write(tmp_path / "MRPC" / name, "")
    assert message(mrpc_splits, tmp_path) == f"{tmp_path / 'MRPC' / name}: the list of row ids is empty"


def test_files_of_the_split_come_first(tmp_path):
    folder = mrpc_folder(tmp_path / "MRPC")
    write(folder / "train.tsv", MRPC_HEADER, "1\t1\t2\tmy\town")
    said = message(mrpc_splits, tmp_path)
    assert said == (
        f"{folder}/dev.tsv: no such file (looked for dev.tsv in {folder}; msr_paraphrase_train.txt is split only"
        " where there is neither train.tsv nor dev.tsv)"
    )
    write(folder / "dev.tsv", MRPC_HEADER, "1\t1\t2\tyour\town")
    write(folder / "test.tsv", "index\t#1 ID\t#2 ID\t#1 String\t#2 String", "0\t1\t2\ttheir\town")
    splits = mrpc_splits(tmp_path)
    assert texts(splits.train) == [("my", "own")]
    assert texts(splits.eval["MRPC"]) == [("your", "own")]
    assert texts(splits.test["MRPC"]) == [("their", "own")]
    assert labels(mrpc_splits(tmp_path, "test").eval["MRPC"]) == [1, 0]  # of the file that has labels


def test_the_two_sets_of_one_file_are_two_in_the_cache(tmp_path, tokenizer, monkeypatch):
    monkeypatch.setattr(cache, "CACHED_FROM", 0)
    mrpc_folder(tmp_path / "MRPC")
    use = cache.cached(str(tmp_path / "cache"), sentence_features, tokenizer, max_seq_length=16)
    features = mrpc_splits(tmp_path).map(use)
    assert [len(features.train), len(features.eval["MRPC"])] == [2, 1]


def test_nothing_is_fetched_for_mrpc_where_its_files_are_there(tmp_path, monkeypatch):
    """Whatever the order of the rows in the copy, its line ends and its byte-order mark."""
    folder = mrpc_folder(tmp_path / "MRPC")
    source = download.SOURCES["MRPC"]
    sums = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in source.build(folder).items()}
    source = dataclasses.replace(source, built=sums)
    monkeypatch.setattr(download, "SOURCES", {"MRPC": source})
    monkeypatch.setattr(download, "fetch", lambda *_: pytest.fail("something is fetched"))
    path = folder / "msr_paraphrase_train.txt"
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n") + b"\r\n")
    content = path.read_bytes()
    assert exit_status(download.main, "mrpc", "--data_dir", str(tmp_path)) == 0
    assert path.read_bytes() == content
    assert (folder / "train.tsv").read_text(encoding="utf-8") == (
        f"{MRPC_HEADER}\n1\t1\t2\ta film\tone\n1\t{LISTED[0][0]}\t9\ta cast\tthree\n"
    )
    assert texts(read_set(MRPC, MRPC.dev["MRPC"], folder, True)) == [("a plot", "two")]


@needs_real_data
def test_mrpc_from_two_files_is_the_official_split(tmp_path, monkeypatch):
    official, folder = Path(REAL_DATA) / "MRPC", tmp_path / "MRPC"
    folder.mkdir()
    rows = [(official / name).read_text(encoding="utf-8").split("\n") for name in ("train.tsv", "dev.tsv")]
    corpus = "\n".join([*rows[0][:-1], *rows[1][1:]])
    (folder / "msr_paraphrase_train.txt").write_text(corpus, encoding="utf-8")
    (folder / "msr_paraphrase_test.txt").write_bytes((official / "msr_paraphrase_test.txt").read_bytes())
    own, given = mrpc_splits(tmp_path), mrpc_splits(REAL_DATA)
    assert own.counts() == {"train": 3668, "eval": 408, "test": 1725}
    assert list(own.train) == list(given.train)
    assert list(own.eval["MRPC"]) == list(given.eval["MRPC"])
    assert texts(own.test["MRPC"]) == texts(given.test["MRPC"])
    monkeypatch.setattr(download, "fetch", lambda *_: pytest.fail("something is fetched"))
    download.main(["MRPC", "--data_dir", str(tmp_path)])
    for name in ("train.tsv", "dev.tsv", "test.tsv"):
        assert (folder / name).read_bytes() == (official / name).read_bytes()
