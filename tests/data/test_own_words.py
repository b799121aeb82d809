"""Words of the user's own with a tag each: formats, tags, metrics, and what comes out."""

import json
from functools import partial

import datasets
import pytest
from own_tables import SENTENCES, conll, lists, table, task_and_sets
from script_runs import message, results_of

import run_tok_clas
from data import metrics

pytestmark = pytest.mark.usefixtures("offline")


@pytest.mark.parametrize("name", ["x.conll", "x.txt", "x.tsv", "x.json", "x.jsonl", "x.parquet"])
def test_words_come_as_conll_or_as_lists(name, tmp_path):
    write = lists if name.endswith(("json", "jsonl", "parquet")) else conll
    task, sets = task_and_sets("--do_train", "--train_file", write(tmp_path / name), script="run_tok_clas")
    assert task.labels == ("O", "B-MOOD", "B-WORK")
    assert task.metrics[0] == "entity_f1"
    assert [(row.words, row.labels) for row in sets.train] == [
        (words, [task.labels.index(tag) for tag in tags]) for words, tags in SENTENCES
    ]


def test_names_of_tags_in_a_parquet_file_are_used(tmp_path):
    features = datasets.Features(
        {
            "words": datasets.List(datasets.Value("string")),
            "tags": datasets.List(datasets.ClassLabel(names=["B-WORK", "O", "B-MOOD", "B-NONE"])),
        }
    )
    file = lists(tmp_path / "x.parquet", [(["a", "film"], [1, 0]), ([], [])], ("words", "tags"), features)
    task, sets = task_and_sets("--do_train", "--train_file", file, script="run_tok_clas")
    assert task.labels == ("O", "B-WORK", "B-MOOD", "B-NONE")
    assert [(row.words, row.labels) for row in sets.train] == [(["a", "film"], [0, 1]), ([], [])]


@pytest.mark.parametrize(
    ("rows", "flags", "metrics", "labels"),
    [
        ([["NN", "VB"]], "", ("accuracy",), ("NN", "VB")),
        ([[3, 10]], "", ("accuracy",), ("3", "10")),
        ([["O", "NN"]], "", ("accuracy",), ("O", "NN")),
        ([["B-X", "O"]], "--metric token_f1", ("token_f1", "entity_f1", "entity_precision"), ("O", "B-X")),
        ([["S-X", "O"]], "--metric accuracy", ("accuracy", "entity_f1", "token_f1"), ("O", "S-X")),
    ],
)
def test_tags_say_how_they_are_scored(rows, flags, metrics, labels, tmp_path):
    file = lists(tmp_path / "x.jsonl", [(["a", "b"], tags) for tags in rows])
    task, _ = task_and_sets("--do_train", "--train_file", file, *flags.split(), script="run_tok_clas")
    assert task.metrics[:3] == metrics
    assert task.labels == labels


def test_a_header_line_or_a_slip_among_tags_of_entities_is_told(tmp_path, caplog):
    def metric(name: str, *tags: str) -> str:
        file = tmp_path / name
        file.write_text("".join(f"w{tag}\t{tag}\n" for tag in tags))
        task, _ = task_and_sets("--do_train", "--train_file", str(file), script="run_tok_clas")
        return task.metrics[0]

    assert metric("a.tsv", "tag", "B-PER", "O", "B-LOC") == "accuracy"
    assert "tag: unlike the other tags, not of the form B-... or I-..., so the metric is accuracy" in caplog.text
    caplog.clear()
    assert [metric("b.tsv", "B-PER", "O", "B-LOC"), metric("c.tsv", "NN", "O", "VB")] == ["entity_f1", "accuracy"]
    assert "unlike the other tags" not in caplog.text


def test_a_word_with_a_space_and_no_tag_is_not_two_columns(tmp_path):
    file = tmp_path / "x.tsv"
    file.write_text("New York\t\nParis\tB-LOC\n")
    words = partial(task_and_sets, script="run_tok_clas")
    said = message(words, "--do_train", "--train_file", str(file))
    assert said == f"{file}, line 1: the row has no tag; a word and its tag are expected"
    file.write_text("New York\tB-LOC\t\nParis\tO\n")
    _, sets = words("--do_train", "--train_file", str(file))
    assert [row.words for row in sets.train] == [["New York", "Paris"]]


@pytest.mark.parametrize("ends", ["LU", "ES"])
def test_entities_with_tags_for_ends_and_single_words_by_value(ends):
    """Two of one word, one of two and one of three; the prediction of the third ends too early."""
    last, single = ends
    tags = [[f"{single}-PER", f"{single}-PER", "O", "B-LOC", f"{last}-LOC"], ["B-PER", "I-PER", f"{last}-PER"]]
    predictions = [[f"{single}-PER", f"{single}-PER", "O", "B-LOC", "O"], ["B-PER", "I-PER", f"{last}-PER"]]
    scores = metrics.compute_words(("entity_precision", "entity_recall", "entity_f1"), tags, predictions)
    assert scores == pytest.approx(dict.fromkeys(scores, 75))
    predictions = [["O", f"{single}-PER", "O", "O", f"{single}-LOC"], ["O", "O", "O"]]
    scores = metrics.compute_words(("entity_precision", "entity_recall", "entity_f1"), tags, predictions)
    assert [scores[name] for name in ("entity_precision", "entity_recall")] == [50, 25]
    assert scores["entity_f1"] == pytest.approx(100 * 2 / (2 + 4))


@pytest.mark.parametrize(
    ("rows", "flags", "said"),
    [
        ([{"tokens": ["a", "b"], "tags": ["O"]}], "", "x.jsonl, row 1: 1 tag in 'tags' for 2 words in 'tokens'"),
        (
            [{"tokens": "a b", "tags": "O O"}],
            "",
            "x.jsonl, row 1: 'tokens' is one text where a list of texts is expected",
        ),
        (
            [{"tokens": ["a", "b"], "tags": [1, -100]}],
            "",
            "x.jsonl, row 1: -100 in 'tags' stands for no tag: give each",
        ),
        ([{"tokens": ["a"], "tags": [None]}], "", "x.jsonl, row 1: each of 'tags' must be text, not null"),
        ([{"tokens": ["a", 7], "tags": ["O", "O"]}], "", "x.jsonl: the tag of every word is 'O'; at least two tags"),
        ([{"tokens": ["a", "b"], "tags": ["A", "C"]}], "--metric entity_f1", "--metric entity_f1 is of entities: the"),
        ([{"it": ["a"], "tags": ["O"]}], "", "which column is the words is not clear: give --token_column; the col"),
        ([{"tokens": ["a"], "tags": ["O"], "ner_tags": ["O"]}], "", "('ner_tags' or 'tags'?): give --tag_column; the"),
        ([{"tokens": ["a"], "tag": ["O"]}], "", "which column is the tags is not clear: give --tag_column; the colum"),
        ([{"tokens": ["a"], "tag": ["O"]}], "--tag_column t", "--tag_column t: {file} has no column 't'; it has 'tok"),
    ],
)
def test_lists_that_cannot_be_used_are_refused(rows, flags, said, tmp_path, encoder_folder, refused):
    file = table(tmp_path / "x.jsonl", rows)
    given = ("--do_train", "--train_file", file, *flags.split())
    expected = said.replace("x.jsonl, row", "x.jsonl, line").format(file=file)
    assert expected in refused("own", *given, script=run_tok_clas, load_model_path=encoder_folder)


def test_words_need_a_format_that_has_lists(tmp_path, encoder_folder, refused):
    csv_file, words = table(tmp_path / "x.csv", [{"tokens": "a b", "tags": "O O"}]), conll(tmp_path / "x.txt")
    given = {"script": run_tok_clas, "load_model_path": encoder_folder}
    assert "x.csv: a table with lists is .json" in refused("own", "--do_train", "--train_file", csv_file, **given)
    flags = ("--do_train", "--train_file", words, "--tag_column", "tags")
    assert "--tag_column: " in refused("own", *flags, **given)


def test_train_evaluate_and_test_on_own_words(script, tmp_path, caplog):
    train, dev = conll(tmp_path / "train.txt", SENTENCES * 4), lists(tmp_path / "dev.jsonl")
    other = lists(tmp_path / "other.jsonl", [*SENTENCES, (["a", "plot"], ["O", "B-NEW"])])
    test = table(tmp_path / "test.json", [{"tokens": words} for words, _ in SENTENCES])
    flags = (
        "--do_train",
        "--do_eval",
        "--do_test",
        "--train_file",
        train,
        "--dev_file",
        dev,
        other,
        "--test_file",
        test,
    )
    assert script(run_tok_clas, *flags, task_name="works", max_train_steps=24, learning_rate="1e-2") == 0
    out = tmp_path / "out"
    best = results_of(out)["best"]["metrics"]
    assert (best["entity_f1"], best["accuracy"]) == (100, 100)
    assert best["works-other/accuracy"] == pytest.approx(100 * 8 / 9)
    assert "other.jsonl, line 3: the only word (of 9) with a label that works does not have" in caplog.text
    assert (out / "works.tsv").read_text() == "".join(
        f"{word}\t{tag}\n" + "\n" * (place + 1 == len(tags))
        for words, tags in SENTENCES
        for place, (word, tag) in enumerate(zip(words, tags, strict=True))
    )
    assert json.loads((out / "best" / "config.json").read_text())["id2label"] == {
        "0": "O",
        "1": "B-MOOD",
        "2": "B-WORK",
    }
    given = ("--do_eval", "--dev_file", conll(tmp_path / "dev.txt"), "--test_model_file", str(out))
    assert script(run_tok_clas, *given, output_dir=tmp_path / "again", max_train_steps=None) == 0
    again = json.loads((tmp_path / "again" / "evaluation.json").read_text())["metrics"]
    assert again["entity_f1"] == 100

    # As JSON, with the probabilities of each word; the length limit cuts some off, which have none.
    words = [["a", "warm", "film"], ["the", "music", *["is"] * 20]]
    test = table(tmp_path / "more.json", [{"id": f"s{n}", "tokens": each} for n, each in enumerate(words)])
    given = ("--do_test", "--test_file", test, "--predictions_format", "jsonl", "--test_model_file", str(out))
    assert script(run_tok_clas, *given, task_name="works", max_train_steps=None, max_seq_length=8) == 0
    found = [json.loads(line) for line in (out / "works.jsonl").read_text().splitlines()]
    assert [(row["index"], row["words"]) for row in found] == [("s0", words[0]), ("s1", words[1])]
    assert found[0]["tags"] == ["O", "B-MOOD", "B-WORK"]
    for row in found:
        for tag, shares in zip(row["tags"], row["probabilities"], strict=True):
            assert shares is None or (tag == max(shares, key=shares.get) and sum(shares.values()) == pytest.approx(1))
    assert list(found[0]["probabilities"][0]) == ["O", "B-MOOD", "B-WORK"]
    assert (found[1]["tags"][6:], found[1]["probabilities"][6:]) == (["O"] * 16, [None] * 16)


def test_a_table_to_predict_needs_no_tags_beside_other_training_files(tmp_path):
    test = table(tmp_path / "test.json", [{"tokens": ["a", "film"]}])
    given = ("--do_train", "--do_test", "--train_file", conll(tmp_path / "train.txt"), "--test_file", test)
    given = (*given, "--task_name", "works")
    task, sets = task_and_sets(*given, script="run_tok_clas")
    assert [row.words for row in sets.test["works"]] == [["a", "film"]]
    assert task.columns == ("tokens", "ner_tags")


def test_for_predictions_alone_the_training_file_says_the_tags(tmp_path):
    (tmp_path / "alone.bin").touch()
    test = table(tmp_path / "test.json", [{"tokens": ["a", "film"]}])
    given = ("--do_test", "--test_model_file", tmp_path / "alone.bin", "--test_file", test, "--task_name", "works")
    train = lists(tmp_path / "train.json")
    task, sets = task_and_sets(*given, "--train_file", train, script="run_tok_clas")
    assert task.labels == ("O", "B-MOOD", "B-WORK")
    assert [(row.words, row.labels) for row in sets.test["works"]] == [(["a", "film"], None)]
    train = lists(tmp_path / "train.json", names=("tokens", "mine"))
    said = message(partial(task_and_sets, script="run_tok_clas"), *given, "--train_file", train)
    assert said.startswith(f"{train}: which column is the tags is not clear: give --tag_column; the columns are")


def test_a_fraction_of_the_sentences_is_held_out(tmp_path):
    sentences = [([f"w{n}", "film"], ["O", "B-WORK"]) for n in range(20)]
    given = ("--do_train", "--do_eval", "--train_file", conll(tmp_path / "train.txt", sentences))
    _, sets = task_and_sets(*given, "--task_name", "works", script="run_tok_clas")
    assert (len(sets.train), len(sets.eval["works"])) == (18, 2)
    held_out = [(row.index, row.words[0]) for row in sets.eval["works"]]
    assert all(word == f"w{index}" for index, word in held_out)
    assert {word for _, word in held_out}.isdisjoint(row.words[0] for row in sets.train)
