"""Plain text: documents, packed rows, and masks that follow from seed, epoch and row."""

import json
import logging

import datasets
import numpy as np
import pytest
import torch
import transformers
from conftest import WORDS
from script_runs import message
from test_data import write

from data import cache, formats
from data.cache import cached
from data.features import Features
from data.masking import MaskedCollator, MaskedRows, Masking, packed_features
from data.readers import Examples
from data.text import TextTask, read_documents

TASK = TextTask(name="stories", train=None, dev={}, test={}, text=("text",))


@pytest.fixture(scope="module")
def tokenizer(encoder_folder):
    return transformers.AutoTokenizer.from_pretrained(encoder_folder)


@pytest.fixture(scope="module")
def documents() -> list[str]:
    random = np.random.default_rng(0)
    whole = [word for word in WORDS if word.isalpha() and len(word) > 1]
    return [" ".join(random.choice(whole, random.integers(3, 20))) for _ in range(60)]


# --- documents ---


def test_blank_lines_set_documents_apart_and_without_them_lines_do(tmp_path):
    apart = write(tmp_path / "a.txt", "", "one film", "and more", "  ", "", "another", "")
    lines = write(tmp_path / "b.txt", "one film", "another", "", "")
    assert read_documents(TASK, apart) == ["one film\nand more", "another"]
    assert read_documents(TASK, lines) == ["one film", "another"]


def test_documents_of_tables(tmp_path, monkeypatch):
    rows = [{"id": 1, "text": "a film"}, {"id": 2, "text": " "}, {"id": 3, "text": "a plot"}]
    path = write(tmp_path / "a.jsonl", *map(json.dumps, rows))
    assert read_documents(TASK, path) == ["a film", "a plot"]
    pair = TextTask(name="pairs", train=None, dev={}, test={}, text=("title", "text"))
    path = write(tmp_path / "b.csv", "title,text", '"a, b",c', "d,e")
    assert read_documents(pair, path) == ["a, b\nc", "d\ne"]
    path = write(tmp_path / "c.jsonl", json.dumps({"text": ["a", "list"]}))
    assert message(read_documents, TASK, path) == f"{path}, line 1: column 'text' must be text, not a list"
    path = tmp_path / "e.parquet"
    features = datasets.Features({"text": datasets.Value("string"), "kind": datasets.ClassLabel(names=["a", "b"])})
    monkeypatch.setattr(formats, "ROWS_AT_ONCE", 2)
    for rows, parts in ((0, [0]), (5, [2, 2, 1])):  # of which only one is in memory
        columns = {"text": [f"film {row}" for row in range(rows)], "kind": [row % 2 for row in range(rows)]}
        datasets.Dataset.from_dict(columns, features).to_parquet(str(path))
        assert [len(part) for part in formats.arrow_parts(path)] == parts
        assert formats.arrow_features(path) == features
        named = [(row + 1, {"text": f"film {row}", "kind": "ab"[row % 2]}) for row in range(rows)]
        assert list(formats.arrow_rows(path)) == named
    path = write(tmp_path / "d.txt", "", " ")
    assert message(read_documents, TASK, path) == f"{path}: there is no text in it"


# --- packing ---


def test_documents_are_packed_with_the_separator_between(tokenizer):
    cls, sep = tokenizer.cls_token_id, tokenizer.sep_token_id
    film, plot, score = tokenizer.convert_tokens_to_ids(["film", "plot", "score"])
    texts = ["film film film", "plot plot", "score " * 7]
    rows = packed_features(texts, tokenizer, max_seq_length=8)
    assert rows.columns["input_ids"] == [
        [cls, film, film, film, sep, plot, plot, sep],
        [cls, *[score] * 6, sep],  # the separator before it is left out
        [cls, score, sep],
    ]
    assert rows.lengths == [8, 8, 3]
    assert rows.report == {"documents": 3, "tokens": 12}
    rows = packed_features(texts, tokenizer, max_seq_length=6, packing=False)
    assert rows.columns["input_ids"] == [
        [cls, film, film, film, sep],
        [cls, plot, plot, sep],
        [cls, *[score] * 4, sep],
        [cls, *[score] * 3, sep],
    ]
    assert message(packed_features, texts, tokenizer, 2) == "--max_seq_length 2: this encoder takes 3 to 64 tokens"


def test_no_token_is_lost_and_none_is_there_twice(tokenizer, documents):
    rows = packed_features(documents, tokenizer, max_seq_length=24)
    special = set(tokenizer.all_special_ids)
    found = [token for ids in rows.columns["input_ids"] for token in ids if token not in special]
    assert found == [token for text in documents for token in tokenizer(text, add_special_tokens=False)["input_ids"]]
    assert max(rows.lengths) == 24
    assert sum(length < 23 for length in rows.lengths) <= 1  # the last alone is short


def test_blocks_of_documents_are_packed_alike_from_the_cache_and_without_one(
    tokenizer, documents, tmp_path, monkeypatch
):
    path = write(tmp_path / "text.txt", *documents)
    monkeypatch.setattr(Features, "CHUNK", 7)
    monkeypatch.setattr(cache, "CACHED_FROM", 0)
    settings = {"max_seq_length": 24, "packing": True, "whole_words": True}
    made = packed_features(documents, tokenizer, **settings)
    for _ in range(2):  # made, and found
        examples = Examples(TASK, [path], labelled=True)
        stored = cached(str(tmp_path / "cache"), packed_features, tokenizer, **settings)(examples)
        assert [stored[row] for row in range(len(stored))] == [made[row] for row in range(len(made))]
        assert stored.report == made.report
    masked = Masking.of(tokenizer, 0.15, whole_words=True)
    rows = [MaskedRows(each, masked, seed=1) for each in (made, stored)]
    assert rows[0].identity() == rows[1].identity()
    other = packed_features([*documents[:-1], f"{documents[-1]} film"], tokenizer, **settings)
    assert MaskedRows(other, masked, seed=1).identity() != rows[0].identity()
    assert rows[0].__getitems__([3, 1]) == rows[1].__getitems__([3, 1]) == [rows[0][3], rows[0][1]]


# --- masks ---


@pytest.fixture(scope="module")
def rows(tokenizer, documents):
    return packed_features(documents * 4, tokenizer, max_seq_length=32, whole_words=True)


def test_fifteen_in_a_hundred_are_chosen_and_of_these_eight_in_ten_masked(rows, tokenizer):
    """Of each row exactly so many, rounded; what becomes of them is exact for this seed, and near 80, 10 and 10 %."""
    masked = MaskedRows(rows, Masking.of(tokenizer, 0.15, whole_words=False), seed=42)
    special = set(tokenizer.all_special_ids)
    became = {"mask": 0, "other": 0, "same": 0}
    for number in range(len(masked)):
        row, given = masked[number], rows[number]["input_ids"]
        free = [place for place, token in enumerate(given) if token not in special]
        assert len(row["words"]) == max(1, round(0.15 * len(free)))
        assert row["words"] == sorted(set(row["words"]))
        assert set(row["words"]) <= set(free)
        assert row["labels"] == [given[place] for place in row["words"]]
        for place, (before, after) in enumerate(zip(given, row["input_ids"], strict=True)):
            if place not in row["words"]:
                assert before == after
            elif after == tokenizer.mask_token_id:
                became["mask"] += 1
            else:
                assert after not in special
                became["same" if before == after else "other"] += 1
    assert became == {"mask": 318, "other": 33, "same": 49}
    total = sum(became.values())
    assert became["mask"] / total == pytest.approx(0.8, abs=0.03)


def test_the_same_seed_epoch_and_row_give_the_same_mask_and_no_others_do(rows, tokenizer):
    rule = Masking.of(tokenizer, 0.15, whole_words=False)

    def masks(seed, epoch=0):
        masked = MaskedRows(rows, rule, seed)
        masked.begin_epoch(epoch)
        return [masked[number]["input_ids"] for number in range(8)]

    assert masks(1) == masks(1)
    found = [masks(1), masks(1, 1), masks(2), masks(2, 1), masks(None)]
    assert all(one[row] != other[row] for one in found for other in found if one is not other for row in range(8))
    assert masks(None) == masks(None, 5)  # what is evaluated is masked alike in every epoch and for every seed


def test_whole_words_are_chosen(tokenizer):
    """`zebra` is five tokens, `film` one: the five are chosen together, or none of them."""
    text = " ".join(["zebra film", "film film"] * 12)
    pieces = tokenizer.tokenize("zebra")
    assert len(pieces) == 5
    rows = packed_features([text], tokenizer, max_seq_length=60, whole_words=True)
    masked = MaskedRows(rows, Masking.of(tokenizer, 0.3, whole_words=True), seed=0)
    for epoch in range(30):
        masked.begin_epoch(epoch)
        for number in range(len(rows)):
            row, starts = masked[number], rows[number]["starts"]
            free = sum(token not in tokenizer.all_special_ids for token in rows[number]["input_ids"])
            assert len(row["words"]) == round(0.3 * free)  # a film fills what a zebra would exceed
            chosen = set(row["words"])
            for place in range(2, len(starts) - 1):
                if not starts[place]:
                    assert (place in chosen) == (place - 1 in chosen)
    long = packed_features(["zebra"], tokenizer, max_seq_length=60, whole_words=True)
    assert MaskedRows(long, Masking.of(tokenizer, 0.3, whole_words=True), seed=0)[0]["words"] == []
    slow = type("Slow", (), {"is_fast": False})()
    assert message(packed_features, [text], slow, 60, True, True).startswith("--whole_word_mask: a fast tokenizer")


def test_the_collator_pads_rows_and_their_words(rows, tokenizer):
    masked = MaskedRows(rows, Masking.of(tokenizer, 0.15, whole_words=False), seed=42)
    short = min(range(len(masked)), key=lambda number: rows.lengths[number])
    batch = MaskedCollator(tokenizer, padding="longest")([masked[0], masked[short]])
    width, words = rows.lengths[0], len(masked[0]["words"])
    assert batch["input_ids"].shape == batch["attention_mask"].shape == (2, width)
    assert batch["attention_mask"].sum(1).tolist() == [width, rows.lengths[short]]
    assert batch["words"].shape == batch["labels"].shape == (2, words)
    count = len(masked[short]["words"])
    assert batch["labels"][1].tolist() == masked[short]["labels"] + [-100] * (words - count)
    restored = batch["input_ids"].scatter(1, batch["words"][:1], batch["labels"][:1])[0]
    assert restored.tolist() == rows[0]["input_ids"]
    assert torch.equal(batch["words"][1, count:], torch.zeros(words - count, dtype=torch.long))


def test_a_tokenizer_without_a_mask_token_is_refused(tokenizer):
    bare = type("Bare", (), {"mask_token_id": None})()
    assert message(Masking.of, bare, 0.15, False) == (
        "--load_model_path: its tokenizer has no mask token, which this training needs"
    )


def test_what_sets_documents_apart_is_said(tmp_path, caplog):
    from data.own_text import text_task
    from training import arguments

    lines = write(tmp_path / "stories.txt", "one film", "another")
    apart = write(tmp_path / "held.txt", "one film", "", "another")
    args = arguments.of_script("run_mlm", ["--train_file", str(lines), "--dev_file", str(apart)])
    assert (args.do_train, args.do_eval) == (True, True)
    with caplog.at_level(logging.INFO, "asa"):
        task = text_task(args)
    assert (task.name, task.text, list(task.dev)) == ("stories", (), ["stories"])
    assert f"{lines}: its documents are set apart by lines" in caplog.messages
    assert f"{apart}: its documents are set apart by blank lines" in caplog.messages
