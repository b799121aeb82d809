"""Whatever the bytes of a file: its content, or one sentence; the same bytes in every run of the tests."""

import dataclasses
import json
import logging
import pickle
import re
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from test_bad_files import ANLI, GOOD_FILES, HELLA, PAWS, QQP, STS, rows
from test_bad_files import KNOWN as TASKS
from test_bad_input import RunsCode
from test_cache import folders
from test_tok_clas import CONLL_FILE, PTB_FILE
from transformers import AutoTokenizer

from data import cache
from data.examples import WordsExample
from data.features import sentence_features
from data.readers import Examples, read_file
from models.checkpoints import read_state_dict
from utils import InputError

FILES = GOOD_FILES | {
    "STS-B": STS + "7\tg\tf\ty\to\ts\ts\ta film\tthe plot\t3.75\n",
    "QQP": QQP + "5\t1\t2\ta film?\tthe plot?\t1\n",
    "CoLA": "gj04\t1\t\ta film\ngj04\t0\t*\tplot a\n",
    "PAWS-QQP": PAWS + "1\tb'a caf\\\\xc3\\\\xa9'\tb\"the 's ?\"\t0\n",
    "ANLI": rows(ANLI, uid="u1") * 2,
    "HellaSWAG": rows(HELLA, ind=7) * 2,
    "CoNLL-2003": CONLL_FILE,
    "PTB": "# a comment\n1-2\tthe" + "\t_" * 8 + f"\n{PTB_FILE}2.1\tso" + "\t_" * 8 + "\n",
}
KNOWN = TASKS | {"PTB": dataclasses.replace(TASKS["PTB"], labels=("DT", "JJ", "NN", "VB"))}
# What a format gives a meaning to, and what trips decoders.
PIECES = [*b"\t\n\r\0 ,\"'\\{}[]:-_.#01bO"]
PIECES += [b"\r\n", b"\xef\xbb\xbf", b"\xff\xfe", b"\xc3", b"\\ud800", b"NaN", b"-1e999"]
PIECES = [piece if isinstance(piece, bytes) else bytes([piece]) for piece in PIECES]
EDITS = st.lists(
    st.tuples(
        st.floats(0, 1, exclude_max=True),  # where, as a share of the file
        st.integers(0, 9),  # how many bytes go
        st.sampled_from(PIECES) | st.binary(max_size=9),  # what comes in their place
    ),
    min_size=1,
    max_size=5,
)
few = settings(
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def edited(content: bytes, edits) -> bytes:
    for share, gone, piece in edits:
        place = int(share * len(content))
        content = content[:place] + piece + content[place + gone :]
    return content


def outcome(function, *arguments) -> tuple:
    """What a function gives, and the sentence of its `InputError`; one of them is None."""
    try:
        return function(*arguments), None
    except InputError as error:
        return None, str(error)


def check_reader(task: str, path: Path, labelled: bool) -> None:
    """Rows that can be written down again, or a sentence that names the file."""
    examples, said = outcome(read_file, KNOWN[task], path, labelled)
    if said:
        assert said.startswith(str(path))
        assert "\n" not in said
        assert len(said) < 500
        return
    assert examples
    for row in examples:
        json.dumps(vars(row) if hasattr(row, "__dict__") else repr(row), ensure_ascii=False).encode()
        if isinstance(row, WordsExample):
            assert len(row.words) == len(row.labels or row.words)
            assert all(row.words)
        else:
            assert (row.label is None) != labelled
            assert row.index is None or not re.search(r"[\t\n\r]", row.index)


@pytest.mark.parametrize(
    ("task", "labelled"),
    [(task, labelled) for task in sorted(FILES) for labelled in (True, False) if labelled or task != "CoLA"],
)
def test_readers(task, labelled, tmp_path, caplog):
    suffix = Path(KNOWN[task].train.files[0][0]).suffix
    path = tmp_path / f"train{suffix}"
    caplog.set_level(logging.CRITICAL, "asa")
    path.write_bytes(FILES[task].encode())
    assert read_file(KNOWN[task], path, labelled)

    @few
    @given(st.binary(max_size=60) | EDITS)
    def check(change):
        path.write_bytes(change if isinstance(change, bytes) else edited(FILES[task].encode(), change))
        check_reader(task, path, labelled)

    check()


def checkpoints(folder: Path) -> dict[str, bytes]:
    state = {"classifier.weight": torch.arange(6.0).view(2, 3), "classifier.bias": torch.ones(2)}
    torch.save(state, folder / "zip.bin")
    torch.save(state, folder / "old.bin", _use_new_zipfile_serialization=False)
    torch.save(state | {"more": RunsCode()}, folder / "code.bin")
    (folder / "plain.bin").write_bytes(pickle.dumps(RunsCode()))
    save_file(state, folder / "x.safetensors")
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("name", ["zip.bin", "old.bin", "code.bin", "plain.bin", "x.safetensors"])
def test_checkpoints(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "made").mkdir()
    content = checkpoints(tmp_path / "made")[name]
    path = tmp_path / name

    @few
    @given(st.binary(max_size=60) | EDITS)
    def check(change):
        path.write_bytes(change if isinstance(change, bytes) else edited(content, change))
        state, said = outcome(read_state_dict, path)
        assert said.startswith(str(path)) if said else all(map(torch.is_tensor, state.values()))
        assert not (tmp_path / "was_here").exists()

    check()


@pytest.mark.parametrize("name", ["about.json", "rows.arrow"])
def test_cache(name, encoder_folder, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(cache, "CACHED_FROM", 0)
    caplog.set_level(logging.CRITICAL, "asa")
    path = tmp_path / "train.tsv"
    path.write_text(GOOD_FILES["SST-2"])
    examples = Examples(KNOWN["SST-2"], [path], True)
    tokenizer = AutoTokenizer.from_pretrained(encoder_folder)
    use = cache.cached(str(tmp_path / "cache"), sentence_features, tokenizer, max_seq_length=16)
    expected = sentence_features(examples, tokenizer, max_seq_length=16)
    use(examples)
    entry = tmp_path / "cache" / folders(tmp_path)[0] / name
    content = entry.read_bytes()

    @settings(few, max_examples=20)
    @given(st.binary(max_size=60) | EDITS)
    def check(change):
        entry.unlink()  # what is mapped stays as it is
        entry.write_bytes(change if isinstance(change, bytes) else edited(content, change))
        found = use(examples)
        assert list(found) == list(expected)
        assert found.report == expected.report
        assert found.lengths == expected.lengths

    check()
