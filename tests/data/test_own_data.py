"""Data of the user's own in the three scripts: files of every format, guessed columns, labels, and what comes out."""

import csv
import json
import logging
import re
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from conftest import relative_error
from matplotlib.figure import Figure
from recorded_runs import table as report_table
from recorded_runs import write_run
from script_runs import exit_status, flags_of, message, results_of
from test_processes import ROOT, run_twofold
from transformers import AutoModelForMultipleChoice, AutoModelForSequenceClassification, AutoTokenizer, pipeline

import reproduce
import run_multi_cho
import run_sent_clas
import run_tok_clas
from data import metrics, own
from data.batches import ChoiceCollator, collate_parts, evaluation_batches
from data.cache import StoredFeatures, cached
from data.features import Features, choice_features, sentence_features
from data.predictions import read_predictions, write_predictions
from data.readers import read_splits
from data.tasks import SENTENCE_TASKS, TASKS
from experiments import plan
from figures import attention_maps, training_curves
from models.asa import AsaModel
from training import accumulation, arguments

FILMS = ("film", "plot", "drama", "ending", "cast", "script", "music", "comedy")
GOOD, BAD = ("warm", "fresh", "bright", "lovely"), ("dull", "flat", "tired", "weak")


def rows_of_films(count: int) -> list[dict]:
    """Text with "good" or "bad" for it, in turn."""
    words = [(GOOD, BAD)[number % 2][number % 3] for number in range(count)]
    return [
        {"text": f"a {word} {FILMS[number % 8]}", "label": ("good", "bad")[number % 2]}
        for number, word in enumerate(words)
    ]


def table(path: Path, rows: list[dict], features: datasets.Features | None = None) -> str:
    """Write a table in the format that its name ends in; its path as a flag has it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix in (".csv", ".tsv"):
        with open(path, "w", newline="", encoding="utf-8") as file:
            quotes = {} if path.suffix == ".csv" else {"quoting": csv.QUOTE_NONE, "quotechar": None}
            writer = csv.writer(file, delimiter=",\t"[path.suffix == ".tsv"], lineterminator="\n", **quotes)
            writer.writerows([list(rows[0]), *(list(row.values()) for row in rows)])
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows, indent=1))
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        datasets.Dataset.from_list(rows, features=features).to_parquet(str(path))
    return str(path)


def task_and_sets(*flags, script: str = "run_sent_clas"):
    """The task that flags make, and its sets."""
    args = arguments.of_script(script, list(map(str, flags)))
    task = own.task_of(args, arguments.SCRIPTS[script].tasks)
    return task, read_splits(task, args)


@pytest.fixture(autouse=True)
def offline(tmp_path_factory, monkeypatch, caplog):
    """`datasets` keeps what it reads in a folder of the tests; the log is at hand."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.getbasetemp() / "datasets")
    caplog.set_level(logging.INFO, "asa")


@pytest.fixture
def script(encoder_folder, tmp_path):
    """script(module, flags, settings) -> exit status of a short run in `tmp_path / "out"`."""

    def run(module, *flags: str, **changes) -> int:
        settings = {
            "load_model_path": encoder_folder,
            "output_dir": tmp_path / "out",
            "max_train_steps": 3,
            "train_batch_size": 4,
            "learning_rate": "3e-3",
            "max_seq_length": 32,
            "no_cuda": "",
        } | changes
        settings = {name: value for name, value in settings.items() if value is not None}
        given = [part for part in flags_of(settings) if part]
        return exit_status(module.main, *given, *flags)

    return run


# --- sentences: formats, columns, labels ---


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".json", ".jsonl", ".parquet"])
def test_every_format_gives_the_same_rows(suffix, tmp_path, caplog):
    """With what types guessed for whole columns would spoil: NA, an empty text, a quote, a number as text."""
    texts = ["NA", "", 'a "warm" film', "007", "null"]
    rows = [{"id": f"r{n}", "text": text, "label": ("no", "NA")[n % 2]} for n, text in enumerate(texts)]
    file = table(tmp_path / f"films{suffix}", rows)
    task, sets = task_and_sets("--do_train", "--train_file", file)
    assert task.labels == ("NA", "no")
    assert [(row.texts, row.label, row.index) for row in sets.train] == [
        ((text,), (1, 0)[n % 2], f"r{n}") for n, text in enumerate(texts)
    ]
    assert task.name == "films"
    assert f"{file}: text in 'text' (guessed; --text_columns chooses), label in 'label' (guessed;" in caplog.text
    assert "films: 2 labels, in the order of their classes: NA, no" in caplog.text


def test_json_may_have_a_row_a_line_too(tmp_path):
    lines = Path(table(tmp_path / "films.jsonl", rows_of_films(3))).rename(tmp_path / "films.json")
    _, sets = task_and_sets("--do_train", "--train_file", lines)
    assert [row.label for row in sets.train] == [1, 0, 1]


# columns -> the texts and the label that are guessed among them, with or without --regression
GUESSES = [
    ("sentence1 sentence2 label", "sentence1 sentence2", "label", False),
    ("idx Premise Hypothesis Label", "Premise Hypothesis", "Label", False),
    ("question sentence labels", "question sentence", "labels", False),
    ("text label label_text", "text", "label", False),
    ("review stars", "review", "stars", False),
    ("remark verdict_given label", None, None, False),
    ("remark label", "remark", "label", False),
    ("text verdict", "text", "verdict", False),
    ("a b", None, None, False),
    ("text sentence label", None, None, False),
    ("text class target", None, None, False),
    ("sentence1 sentence2 label score", "sentence1 sentence2", "score", True),
    ("sentence1 sentence2 label score", "sentence1 sentence2", "label", False),
]


@pytest.mark.parametrize(("columns", "texts", "label", "regression"), GUESSES)
def test_columns_are_guessed_by_their_names(columns, texts, label, regression, tmp_path):
    rows = [dict.fromkeys(columns.split(), f"{n % 2}") for n in range(4)]
    flags = ["--do_train", "--train_file", table(tmp_path / "x.csv", rows), *["--regression"] * regression]
    if texts is None:
        said = message(task_and_sets, *flags)
        assert ", ".join(map(repr, columns.split()[:2])) in said
        assert ("give --text_columns" in said) or ("give --label_column" in said)
        return
    task, _ = task_and_sets(*flags)
    assert " ".join(name for (name,) in task.text) == texts
    assert task.label == (label,)


def test_what_is_to_be_predicted_needs_no_label(script, tmp_path):
    """Other columns of a test set may look like labels, and its only other column is the text."""
    train = table(tmp_path / "train.csv", [{"remark": row["text"], "label": row["label"]} for row in rows_of_films(4)])
    assert script(run_sent_clas, "--do_train", "--train_file", train, max_train_steps=1) == 0
    given = {"test_model_file": tmp_path / "out", "max_train_steps": None}
    for number, others in enumerate((["id"], ["rating", "stars", "id"])):
        rows = [{"remark": "a film"} | dict.fromkeys(others, "7")] * 2
        flags = ("--do_test", "--test_file", table(tmp_path / f"test{number}.csv", rows), "--task_name", "films")
        assert script(run_sent_clas, *flags, **given, output_dir=tmp_path / str(number)) == 0
        assert (tmp_path / str(number) / "films.tsv").read_text().startswith("index\tprediction\tprobability_bad")
        assert "\n7\t" in (tmp_path / str(number) / "films.tsv").read_text()


def test_flags_choose_the_columns(tmp_path):
    rows = [{"text": "no", "b": f"b{n}", "a, c": f"a{n}", "label": "no", "mine": n % 2} for n in range(4)]
    flags = ("--do_train", "--train_file", table(tmp_path / "x.csv", rows), "--label_column", "mine")
    task, sets = task_and_sets(*flags, "--text_columns", "a, c")
    assert [row.texts for row in sets.train] == [("a0",), ("a1",), ("a2",), ("a3",)]
    assert task.labels == ("0", "1")
    assert message(task_and_sets, *flags, "--text_columns", "b,d").endswith(
        "x.csv has no column 'd'; it has 'text', 'b', 'a, c', 'label', 'mine'"
    )
    assert "name one column or two" in message(task_and_sets, *flags, "--text_columns", "b,text,mine")


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (["b", "10", "a"], ("10", "a", "b")),
        ([10, 9, 2], ("2", "9", "10")),
        (["10", "9.0", "2"], ("2", "9", "10")),
        ([0.5, 2.0, -1.0], ("-1.0", "0.5", "2.0")),
        ([True, False, True], ("False", "True")),
    ],
)
def test_labels_are_words_or_numbers_in_order(labels, expected, tmp_path):
    rows = [{"text": "a film", "label": label} for label in labels]
    task, sets = task_and_sets("--do_train", "--train_file", table(tmp_path / "x.jsonl", rows))
    assert task.labels == expected
    assert all(isinstance(row.label, int) for row in sets.train)


def test_names_of_classes_in_a_parquet_file_are_used(tmp_path):
    """Also of those without a row; -1 is no label there."""
    names = datasets.ClassLabel(names=["worst", "fair", "best"])
    features = datasets.Features({"text": datasets.Value("string"), "label": names})
    rows = [{"text": f"film {n}", "label": label} for n, label in enumerate((2, -1, 0))]
    task, sets = task_and_sets("--do_train", "--train_file", table(tmp_path / "x.parquet", rows, features))
    assert task.labels == ("worst", "fair", "best")
    assert [(row.texts[0], row.label) for row in sets.train] == [("film 0", 2), ("film 2", 0)]
    assert sets.train.report == {"rows_without_gold_label": 1}


@pytest.mark.parametrize(
    ("rows", "flags", "said"),
    [
        ([("a", "x"), ("b", "")], "", "x.csv, line 3: the label in column 'label' is empty"),
        ([("a", "x"), ("b", "x")], "", "x.csv: column 'label' has the label 'x' in every row: two labels"),
        ([(f"t{n}", f"{n / 7}") for n in range(30)], "", "has 30 different numbers, which are no classes: add --regr"),
        ([(f"t{n}", f"w{n}") for n in range(101)], "", "has 101 different values in 101 rows, which are no classes"),
        ([("a", "1"), ("b", "two")], "--regression", "x.csv, line 3: the score 'two' is not a number"),
        ([("a", "1"), ("b", "nan")], "--regression", "x.csv, line 3: the score 'nan' is not a finite number"),
        ([("a", "x"), ("b", "y"), ("c", "z")], "--metric f1", "--metric f1 is of the second of two labels, and these"),
        ([("a", "x"), ("b", "y")], "--metric pearson", "--metric pearson: these data have classes; choose one of acc"),
        ([("a", "1"), ("b", "2")], "--metric accuracy --regression", "--metric accuracy: these data have numbers"),
    ],
)
def test_bad_labels_are_refused(rows, flags, said, tmp_path, encoder_folder, refused):
    file = table(tmp_path / "x.csv", [{"text": text, "label": label} for text, label in rows])
    given = ("--do_train", "--train_file", file, *flags.split())
    assert said in refused("own", *given, script=run_sent_clas, load_model_path=encoder_folder)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("x.csv", "text,label\na,1\nb\n", "x.csv, line 3: 1 columns where 2 are expected"),
        ("x.csv", "text,label\n", "x.csv: the file has no rows"),
        ("x.csv", "", "x.csv: the file has no rows"),
        ("x.tsv", "text\tlabel\na\t1\t2\n", "x.tsv, line 2: 3 columns where 2 are expected"),
        ("x.json", '[{"text": "a", "label": 1}, 7]', "x.json, row 2: a JSON object is expected, not int"),
        (
            "x.json",
            '[{"text": ["a"], "label": 1}, {"text": "b", "label": 0}]',
            "row 1: column 'text' must be text, not",
        ),
        ("x.jsonl", '{"text": "a", "label": 1}\n{"text": "b"}\n', "x.jsonl, line 2: there is no column 'label'"),
        ("x.parquet", "text,label\na,1\n", "x.parquet: not a readable parquet file ("),
        ("x.txt", "text,label\na,1\n", "x.txt: its name must end in one of .csv, .tsv, .json, .jsonl, .parquet, which"),
    ],
)
def test_files_that_cannot_be_read_are_refused(name, content, said, tmp_path, encoder_folder, refused):
    (tmp_path / name).write_text(content)
    given = ("--do_train", "--train_file", str(tmp_path / name))
    assert said in refused("own", *given, script=run_sent_clas, load_model_path=encoder_folder)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("--do_train --task_name SST-2 --metric f1", "--metric is for data of your own: give them with --train_file"),
        ("--do_train --task_name sst-2 --train_file F", "--task_name sst-2: a task with files of its own: call your"),
        ("--do_train --task_name a/b --train_file F", "--task_name a/b: files get this name: use letters, digits"),
        ("--do_train --dev_file F", "--do_train needs --train_file, the rows to train on"),
        ("--do_train --do_test --train_file F", "--do_test needs --test_file, the rows to predict"),
        ("--do_train --do_eval --eval_on test --train_file F", "--eval_on test needs --test_file, with labels"),
        ("--do_train --train_file F --dataset_name F", "--dataset_name and --train_file exclude each other"),
        (
            "--do_train --train_file F --dev_file F --dev_fraction 0.2",
            "--dev_fraction and --dev_file exclude each other",
        ),
        ("--do_train --train_file F --dev_fraction 1", "--dev_fraction 1 leaves nothing to train on"),
        ("--do_eval --train_file F --test_model_file ENC", "--do_eval needs --dev_file, the rows to score; or, to"),
        ("--do_train --train_file F --dev_file F.csv a/F.csv", "F.csv and a/F.csv have the same name: rename one"),
        ("--do_train --train_file none.csv", "--train_file none.csv: no such file"),
        ("--do_train --train_file ENC", "a folder: name its files, or give it as --dataset_name"),
        ("--do_train --dataset_name ENC", "--dataset_name ENC: the library datasets cannot read it ("),
    ],
)
def test_flags_that_contradict_each_other_are_refused(flags, said, tmp_path, encoder_folder, refused):
    file = table(tmp_path / "x.csv", rows_of_films(4))
    given = [{"F": file, "ENC": encoder_folder}.get(flag, flag) for flag in flags.split()]
    assert said.replace("ENC", encoder_folder) in refused(None, *given, script=run_sent_clas)


@pytest.mark.parametrize(
    ("flags", "name"),
    [
        (["--train_file", "mine/train.csv"], "mine"),
        (["--train_file", "mine/films.csv"], "films"),
        (["--train_file", "mine/films_train.csv"], "films"),
        (["--train_file", "sst-2/train.csv"], "own-sst-2"),
        (["--dataset_name", "mine"], "mine"),
        (["--train_file", "mine/train.csv", "--task_name", "Films.2"], "Films.2"),
    ],
)
def test_own_data_are_called_after_their_file_or_folder(flags, name, tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    for file in ("mine/train.csv", "mine/films.csv", "mine/films_train.csv", "sst-2/train.csv"):
        table(tmp_path / file, rows_of_films(4))
    task, _ = task_and_sets("--do_train", *flags)
    assert task.name == name
    assert (f"these data are called {name} (" in caplog.text) == ("--task_name" not in flags)


# --- the dev set ---


def test_a_fraction_of_the_training_rows_is_held_out_by_seed_and_label(tmp_path, caplog):
    rows = [{"text": f"film {n}", "label": "good" if n % 4 else "bad"} for n in range(40)] + [
        {"text": "film 40", "label": "unique"}
    ]
    file = table(tmp_path / "x.csv", rows)

    def split(*flags):
        _, sets = task_and_sets("--do_train", "--do_eval", "--train_file", file, *flags)
        return list(sets.train), list(sets.eval["x"])

    train, dev = split("--seed", "1", "--dev_fraction", "0.2")
    assert (len(train), len(dev)) == (33, 8)
    assert sorted(row.index for row in train + dev) == sorted(map(str, range(41)))
    assert [row.label for row in dev].count(0) == 2  # of ten
    assert all(row.texts == (f"film {row.index}",) for row in train + dev)
    assert 2 not in [row.label for row in dev]  # the only one of its kind is for training
    assert "8 of 41 rows held out for the evaluation (--dev_fraction 0.2, seed 1, each label in pro" in caplog.text
    assert split("--seed", "1", "--dev_fraction", "0.2")[1] == dev
    assert split("--seed", "2", "--dev_fraction", "0.2")[1] != dev
    assert len(split("--seed", "1")[1]) == 4  # a tenth, where nothing is said
    # The same rows are scored later, beside a model that was saved.
    args = arguments.of_script(
        "run_sent_clas", ["--do_train", "--train_file", file, "--dev_fraction", "0.2", "--seed", "1"]
    )
    args.do_train, args.do_eval = False, True
    args.test_model_file = str(tmp_path / "absent")
    assert list(read_splits(own.task_of(args, SENTENCE_TASKS), args).eval["x"]) == dev


def test_numbers_are_held_out_too_and_two_rows_are_enough(tmp_path):
    file = table(tmp_path / "x.csv", [{"text": "a", "label": 0.1}, {"text": "b", "label": 12}])
    task, sets = task_and_sets("--do_train", "--do_eval", "--train_file", file, "--regression")
    assert sorted([sets.train[0].label, sets.eval["x"][0].label]) == [0.1, 12]
    assert task.metrics == ("spearman", "pearson")
    assert "x.csv has too few rows (2) for it: give --dev_file" in message(
        lambda: list(
            task_and_sets("--do_train", "--train_file", file, "--dev_fraction", "0.9", "--regression")[1].train
        )
    )


def test_the_token_cache_keeps_the_parts_apart(tmp_path, encoder_folder, monkeypatch):
    monkeypatch.setattr("data.cache.CACHED_FROM", 0)
    file = table(tmp_path / "x.csv", rows_of_films(20))
    _, sets = task_and_sets("--do_train", "--do_eval", "--train_file", file)
    use = cached(
        str(tmp_path / "cache"), sentence_features, AutoTokenizer.from_pretrained(encoder_folder), max_seq_length=9
    )
    found = sets.map(use)
    again = sets.map(use)
    for features, rows in ((found.train, 18), (found.eval["x"], 2), (again.train, 18), (again.eval["x"], 2)):
        assert isinstance(features, StoredFeatures)
        assert len(features) == rows == len(features.columns["labels"])


# --- a whole run ---


def test_train_evaluate_and_test_on_own_files(script, tmp_path, capsys):
    train, dev = table(tmp_path / "train.csv", rows_of_films(24)), table(tmp_path / "dev.tsv", rows_of_films(8))
    test = table(
        tmp_path / "test.jsonl", [{"guid": f"g{n}", "text": row["text"]} for n, row in enumerate(rows_of_films(3))]
    )
    flags = ("--do_train", "--do_eval", "--do_test", "--train_file", train, "--dev_file", dev, "--test_file", test)
    assert script(run_sent_clas, *flags, task_name="films", max_train_steps=24) == 0
    out = tmp_path / "out"
    best = results_of(out)["best"]
    assert best["eval_score"] == best["metrics"]["accuracy"] == 100
    assert best["metrics"]["macro_f1"] == 100
    assert results_of(out)["examples"] == {"train": 24, "eval": 8, "test": 3}
    lines = [line.split("\t") for line in (out / "films.tsv").read_text().splitlines()]
    assert lines[0] == ["index", "prediction", "probability_bad", "probability_good"]
    assert [line[:2] for line in lines[1:]] == [["g0", "good"], ["g1", "bad"], ["g2", "good"]]
    assert [float(line[2]) + float(line[3]) for line in lines[1:]] == pytest.approx([1, 1, 1], abs=1e-5)
    model = AutoModelForSequenceClassification.from_pretrained(out / "best")
    assert model.config.id2label == {0: "bad", 1: "good"}
    assert pipeline("text-classification", model=str(out / "best"))("a warm film")[0]["label"] == "good"
    assert recorded_names(out) == (["films"], ["films.tsv"])
    assert (out / "predictions" / "films.parquet").is_file()

    # The labels of a saved model are its own, whatever the order in which its files would have them.
    for number, source in enumerate((out, out / "best", out / f"{best['epoch']}_pytorch_model.bin")):
        capsys.readouterr()
        folder = tmp_path / f"again{number}"
        given = ("--do_eval", "--dev_file", dev, "--test_model_file", str(source))
        assert script(run_sent_clas, *given, output_dir=folder, max_train_steps=None) == 0
        assert json.loads((folder / "evaluation.json").read_text())["metrics"] == best["metrics"]

    # What another run finds here it does not write over, and removes when it is told to, tables of own data among it.
    assert script(run_sent_clas, *flags, task_name="films") == 2
    assert "it has results already" in capsys.readouterr().err
    flags = ("--do_train", "--train_file", train, "--overwrite_output_dir")
    assert script(run_sent_clas, *flags, task_name="other", max_train_steps=1) == 0
    assert not (out / "films.tsv").exists()


def recorded_names(folder: Path) -> tuple[list[str], list[str]]:
    """What the record of a run tells of its dev sets, and of its files of predictions."""
    task = own.recorded_task(results_of(folder)["args"])
    return list(task.dev), [f"{each.submission}.tsv" for each in task.submissions.values()]


def test_several_dev_and_test_files(script, tmp_path, caplog):
    train = [table(tmp_path / f"{part}.csv", rows_of_films(5)) for part in "ab"]
    dev = [table(tmp_path / f"{part}.csv", rows_of_films(4)) for part in ("near", "far")]
    other = table(tmp_path / "far.csv", [*rows_of_films(3), {"text": "a film", "label": "fair"}])
    flags = ("--do_train", "--do_eval", "--do_test", "--train_file", *train, "--dev_file", *dev, "--test_file", *dev)
    assert script(run_sent_clas, *flags, task_name="films", metric="macro_f1", max_train_steps=1) == 0
    record = results_of(tmp_path / "out")
    assert record["examples"]["train"] == 10
    assert list(record["best"]["metrics"]) == [
        *("macro_f1", "accuracy"),
        *("films-far/macro_f1", "films-far/accuracy"),
    ]
    assert f"{other}, line 5: the first of 1 rows (of 4) with a label that films does not have ('fair')" in caplog.text
    assert recorded_names(tmp_path / "out") == (
        ["films-near", "films-far"],
        ["films-near.tsv", "films-far.tsv"],
    )
    for name in ("films-near", "films-far"):
        assert (tmp_path / "out" / "predictions" / f"{name}.parquet").is_file()
        assert len((tmp_path / "out" / f"{name}.tsv").read_text().splitlines()) == 5


def test_numbers_to_regress(script, tmp_path):
    rows = [{"a": f"a {(GOOD, BAD)[n % 2][0]} film", "b": "a plot", "mark": 10 * (n % 2) - 30.5} for n in range(8)]
    train, test = (
        table(tmp_path / "train.parquet", rows),
        table(tmp_path / "test.csv", [{"b": "a", "a": "a dull film"}]),
    )
    flags = ("--regression", "--text_columns", "a,b", "--label_column", "mark", "--metric", "pearson", "--do_test")
    given = ("--do_train", "--do_eval", *flags, "--train_file", train, "--dev_file", train, "--test_file", test)
    assert script(run_sent_clas, *given, task_name="marks", max_train_steps=4) == 0
    out = tmp_path / "out"
    assert list(results_of(out)["best"]["metrics"]) == ["pearson", "spearman"]
    header, row = (out / "marks.tsv").read_text().splitlines()
    assert header == "index\tprediction"
    assert np.isfinite(float(row.split("\t")[1]))
    assert AutoModelForSequenceClassification.from_pretrained(out / "best").config.problem_type == "regression"
    given = ("--do_eval", "--text_columns", "a,b", "--label_column", "mark", "--dev_file", train)  # the model says it
    assert script(run_sent_clas, *given, test_model_file=out, output_dir=tmp_path / "again", max_train_steps=None) == 0
    again = json.loads((tmp_path / "again" / "evaluation.json").read_text())
    assert again["metrics"]["pearson"] == results_of(out)["best"]["metrics"]["pearson"]


def test_a_model_that_does_not_say_its_classes_needs_the_training_file(script, tmp_path, capsys):
    file = table(tmp_path / "x.csv", rows_of_films(4))
    given = ("--do_train", "--do_eval", "--train_file", file, "--dev_file", file)
    assert script(run_sent_clas, *given, max_train_steps=1) == 0
    alone = (tmp_path / "out" / "0_pytorch_model.bin").rename(tmp_path / "alone.bin")
    given = {"test_model_file": alone, "output_dir": tmp_path / "again", "max_train_steps": None}
    assert script(run_sent_clas, "--do_eval", "--dev_file", file, **given) == 2
    assert "alone.bin: it does not say what its classes are: give the best/ folder" in capsys.readouterr().err
    assert script(run_sent_clas, "--do_eval", "--dev_file", file, "--train_file", file, **given) == 0
    scores = json.loads((tmp_path / "again" / "evaluation.json").read_text())
    assert scores["metrics"] == results_of(tmp_path / "out")["best"]["metrics"]


def test_a_run_on_own_data_is_resumed_with_the_same_rows_only(script, tmp_path, capsys, monkeypatch):
    file = table(tmp_path / "x.csv", rows_of_films(12))
    flags = ("--do_train", "--do_eval", "--train_file", file, "--save_steps", "1")

    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("training.loop._log_window", stop)
        assert script(run_sent_clas, *flags, logging_steps=2) == 130
    assert script(run_sent_clas, *flags, "--resume", dev_fraction="0.3") == 2
    assert "--dev_fraction 0.3: the run in" in capsys.readouterr().err
    table(tmp_path / "x.csv", [*rows_of_films(11), {"text": "a film", "label": "good"}])
    assert script(run_sent_clas, *flags, "--resume") == 2
    assert "the training data, or how it is tokenised, is not what it was" in capsys.readouterr().err
    table(tmp_path / "x.csv", rows_of_films(12))
    assert script(run_sent_clas, *flags, "--resume", logging_steps=2) == 0
    assert results_of(tmp_path / "out")["finished"]


# --- data sets ---


def test_a_folder_with_the_sets_is_a_data_set(tmp_path):
    for split in ("train", "validation", "test"):
        table(tmp_path / "films" / f"{split}.csv", rows_of_films(4))
    (tmp_path / "films" / "README.md").write_text("films")
    flags = ("--do_train", "--do_eval", "--do_test", "--dataset_name", tmp_path / "films")
    task, sets = task_and_sets(*flags)
    assert task.name == "films"
    assert [path.name for rows in sets.primary().values() for path in rows.paths] == [
        *("train.csv", "validation.csv", "test.csv")
    ]
    table(tmp_path / "films" / "train.jsonl", rows_of_films(4))
    assert "is its train set train.csv or train.jsonl?" in message(task_and_sets, *flags)


@pytest.mark.parametrize("kept", ["save_to_disk", "shards"])
def test_what_the_library_reads_is_a_data_set(kept, tmp_path, caplog):
    names = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["bad", "good"])})
    rows = [{"text": row["text"], "label": int(row["label"] == "good")} for row in rows_of_films(6)]
    split = datasets.Dataset.from_list(rows, features=names)
    folder = tmp_path / "films"
    if kept == "save_to_disk":
        datasets.DatasetDict({"train": split, "validation": split, "test": split}).save_to_disk(folder)
    else:
        for name in ("train", "test"):
            for part in range(2):
                shard = folder / "data" / f"{name}-0000{part}-of-00002.parquet"
                shard.parent.mkdir(parents=True, exist_ok=True)
                split.shard(2, part).to_parquet(str(shard))
    task, sets = task_and_sets("--do_train", "--do_eval", "--do_test", "--dataset_name", folder)
    assert task.labels == ("bad", "good")
    held_out = 1 if kept == "shards" else 0
    assert len(sets.train) == 6 - held_out
    assert len(sets.eval["films"]) == (held_out or 6)
    assert [(row.texts, row.label) for row in sets.test["films"]] == [((row["text"],), None) for row in rows]
    assert "the train set is train, with 6 rows" in caplog.text


def test_a_set_that_a_data_set_lacks_is_named(tmp_path):
    table(tmp_path / "films" / "train.csv", rows_of_films(4))
    folder = tmp_path / "films"
    said = message(task_and_sets, "--do_train", "--do_test", "--dataset_name", folder)
    assert said == f"--dataset_name {folder}: it has no test set"


# --- metrics ---


def test_macro_f1_is_the_mean_over_the_classes():
    """Class 0: 2 of 3 found are right, 2 of 2 to find; class 1: 1 of 1, 1 of 2; a label the model lacks is wrong."""
    scores = metrics.compute(("macro_f1",), [0, 0, 1, 1], np.array([0, 0, 1, 0]))
    assert scores["macro_f1"] == pytest.approx(100 * (0.8 + 2 / 3) / 2)
    scores = metrics.compute(("macro_f1",), [0, 0, 1, 1, -100], np.array([0, 0, 1, 0, 1]))
    assert scores["macro_f1"] == pytest.approx(100 * (0.8 + 0.5) / 2)


def test_the_flag_takes_the_metrics_that_there_are():
    assert {*own.METRICS["run_sent_clas"]} == metrics.METRICS.keys()
    assert {*own.METRICS["run_tok_clas"]} <= metrics.WORD_METRICS.keys()


# --- words ---

SENTENCES = [
    (["a", "warm", "film"], ["O", "B-MOOD", "B-WORK"]),
    (["the", "music", "is", "dull"], ["O", "B-WORK", "O", "B-MOOD"]),
]


def conll(path: Path, sentences=SENTENCES, mark: bool = True) -> str:
    lines = ["-DOCSTART- -X- O\n", "\n"] * mark
    for words, tags in sentences:
        lines += [f"{word} x {tag}\n" for word, tag in zip(words, tags, strict=True)] + ["\n"]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(lines))
    return str(path)


def lists(path: Path, sentences=SENTENCES, names: tuple[str, str] = ("tokens", "ner_tags"), features=None) -> str:
    return table(path, [dict(zip(names, sentence, strict=True)) for sentence in sentences], features)


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


@pytest.mark.parametrize(
    ("rows", "flags", "said"),
    [
        ([{"tokens": ["a", "b"], "tags": ["O"]}], "", "x.jsonl, row 1: 1 tags in 'tags' for 2 words in 'tokens'"),
        ([{"tokens": "a b", "tags": "O O"}], "", "x.jsonl, row 1: there is no list 'tokens'"),
        ([{"tokens": ["a"], "tags": [None]}], "", "x.jsonl, row 1: each of 'tags' must be text, not NoneType"),
        ([{"tokens": ["a", 7], "tags": ["O", "O"]}], "", "x.jsonl: the tag of every word is 'O'; two tags at the"),
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
    assert "other.jsonl, line 3: the first of 1 rows (of 9) with a label that works does not have" in caplog.text
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


def test_a_fraction_of_the_sentences_is_held_out(tmp_path):
    sentences = [([f"w{n}", "film"], ["O", "B-WORK"]) for n in range(20)]
    given = ("--do_train", "--do_eval", "--train_file", conll(tmp_path / "train.txt", sentences))
    _, sets = task_and_sets(*given, "--task_name", "works", script="run_tok_clas")
    assert (len(sets.train), len(sets.eval["works"])) == (18, 2)
    held_out = [(row.index, row.words[0]) for row in sets.eval["works"]]
    assert all(word == f"w{index}" for index, word in held_out)
    assert {word for _, word in held_out}.isdisjoint(row.words[0] for row in sets.train)


# --- multiple choice ---

QUESTIONS = [  # context, question, choices, place of the right one
    ("the film is warm", "how is the film?", ["warm", "dull"], 0),
    ("the plot is dull", "how is the plot?", ["warm", "dull", "flat"], 1),
    ("the cast is bright", "how is the cast?", ["weak", "dull", "tired", "bright"], 3),
    ("the music is flat", "how is the music?", ["flat", "warm", "fresh"], 0),
]


def asked(answers: str, form: str = "list") -> list[dict]:
    """The questions as rows: with an answer of this kind, and the choices in this form."""
    rows = []
    for context, question, choices, right in QUESTIONS:
        names = [f"c{place}" for place in range(len(choices))]
        answer = {
            "name": names[right],
            "text": choices[right],
            "letter": "abcd"[right],
            "number from 0": right,
            "number from 1": str(right + 1),
        }[answers]
        row = {"context": context, "question": question}
        if form == "columns":
            row |= {f"option_{place}": (*choices, "", "")[place] for place in range(4)}
        else:
            objects = [{"text": text, "label": name} for text, name in zip(choices, names, strict=True)]
            column = {"text": choices, "label": names}
            row["choices"] = {"list": choices, "dict": column, "objects": objects}[form]
        rows.append(row | {"answer": answer})
    return rows


def choice_examples(file: str, *flags: str):
    task, sets = task_and_sets("--do_train", "--train_file", file, *flags, script="run_multi_cho")
    return task, list(sets.train)


@pytest.mark.parametrize(
    ("answers", "form", "suffix"),
    [
        ("number from 0", "list", ".jsonl"),
        ("number from 1", "columns", ".csv"),
        ("letter", "columns", ".tsv"),
        ("text", "list", ".parquet"),
        ("name", "dict", ".parquet"),
        ("name", "objects", ".json"),
    ],
)
def test_choices_come_in_lists_or_columns_with_answers_of_any_kind(answers, form, suffix, tmp_path, caplog):
    _, rows = choice_examples(table(tmp_path / f"x{suffix}", asked(answers, form)))
    assert [(row.context, row.question, [*row.choices], row.label) for row in rows] == QUESTIONS
    assert f"x: the answer is the {answers} of a choice" in caplog.text
    assert rows[1].names[1] == {"letter": "B", "text": "dull", "name": "c1"}.get(
        answers, "2" if "1" in answers else "1"
    )


def test_a_missing_choice_may_stand_before_others(tmp_path):
    rows = [{"question": "how?", "A": "warm", "B": "", "C": "dull", "label": "C"}] * 2
    task, examples = choice_examples(table(tmp_path / "x.csv", rows))
    assert task.columns.choices == ("A", "B", "C")
    assert (examples[0].choices, examples[0].label, examples[0].names) == (("warm", "dull"), 1, ("A", "C"))
    assert (examples[0].context, examples[0].question, examples[0].cloze) == ("how?", "_", True)  # the choice alone


@pytest.mark.parametrize(
    ("columns", "guessed"),
    [
        ("sent1 sent2 ending0 ending1 label", ("sent1", "sent2", ("ending0", "ending1"), "label")),
        ("ctx endings label", ("ctx", None, ("endings",), "label")),
        ("goal sol1 sol2 label", None),
        ("article question options answer", ("article", "question", ("options",), "answer")),
        ("question_stem choices answerKey", (None, "question_stem", ("choices",), "answerKey")),
        ("context choices options label", None),
        ("context label", None),
        ("context choices", None),
    ],
)
def test_columns_of_choices_are_guessed(columns, guessed, tmp_path):
    values = {
        "label": 0,
        "answer": 0,
        "answerKey": 0,
        "choices": ["a", "b"],
        "endings": ["a", "b"],
        "options": ["a", "b"],
    }
    rows = [{name: values.get(name, name) for name in columns.split()}] * 2
    file = table(tmp_path / "x.jsonl", rows)
    if guessed is None:
        assert "is not clear" in message(choice_examples, file)
        return
    found = choice_examples(file)[0].columns
    assert (found.context, found.question, found.choices, found.answer) == guessed


def test_a_blank_that_stands_alone_takes_the_choice(tmp_path):
    questions = ["it is ___ .", "_ is it", "is my_var ___ ?", "is it?"]
    rows = [{"context": "a film", "question": text, "choices": ["warm", "dull"], "label": 1} for text in questions]
    _, examples = choice_examples(table(tmp_path / "x.jsonl", rows))
    assert [row.cloze for row in examples] == [True, True, False, False]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"answer": "weak"},
            "line 3: the answer 'weak' is none of its 3 choices, which are called 'warm', 'dull', 'flat'",
        ),
        ({"answer": None}, "line 3: there is no answer in column 'answer'"),
        ({"choices": ["warm"]}, "line 3: two choices at the least are expected, and it has 1"),
        ({"choices": "warm, dull"}, "line 3: there is no list of choices in column 'choices'"),
        ({"choices": ["warm", 7.5, True]}, "line 3: a choice must be text, not bool"),
        ({"question": None}, "line 3: column 'question' must be text, not NoneType"),
    ],
)
def test_bad_choices_are_refused(changes, said, tmp_path, encoder_folder, refused):
    rows = asked("text")
    rows = [*rows[:2], rows[1] | changes, rows[3]]
    given = ("--do_train", "--train_file", table(tmp_path / "x.jsonl", rows))
    assert said in refused("own", *given, script=run_multi_cho, load_model_path=encoder_folder)


def test_rows_with_different_numbers_of_choices_change_no_loss(tmp_path, encoder_folder):
    """A step's rows in one batch for each number of choices: loss and gradient of each row alone, added up."""
    tokenizer = AutoTokenizer.from_pretrained(encoder_folder)
    _, examples = choice_examples(table(tmp_path / "x.jsonl", asked("text")))
    features = choice_features(examples, tokenizer, max_seq_length=32)
    assert features.choices == [2, 3, 4, 3]
    collate = ChoiceCollator(tokenizer)
    parts = collate_parts(collate, 1, [features[row] for row in range(4)])
    assert [tuple(part["input_ids"].shape[:2]) for part in parts] == [(1, 2), (2, 3), (1, 4)]
    backbone = AutoModelForMultipleChoice.from_pretrained(encoder_folder, dtype=torch.float64)
    model = AsaModel(backbone).train()

    def gradient(batches):
        model.zero_grad()
        total = 0.0
        for batch in batches:
            output = model(**batch)
            share = (len(batch["labels"]), 4)
            loss = accumulation.weighted_loss(output, share, share)
            assert torch.isfinite(output.divergence)
            loss.backward()
            total += loss.item()
        return total, torch.cat([weight.grad.flatten() for weight in model.parameters()])

    loss, together = gradient(parts)
    expected, alone = gradient([collate([features[row]]) for row in range(4)])
    assert loss == pytest.approx(expected, rel=1e-10)
    assert relative_error(together, alone) < 1e-9


def test_every_row_is_evaluated_once_in_batches_of_one_number_of_choices():
    batches = evaluation_batches([5, 9, 7, 8, 6, 4], [2, 3, 2, 3, 2, 4], [0, 1, 2, 3, 4, 5], 2)
    assert batches == [[5], [1, 3], [2, 4], [0]]
    assert evaluation_batches([5, 9, 7], None, [2, 0, 1], 2) == [[1, 2], [0]]


@pytest.mark.parametrize("method", ["asa", "smart"])
def test_train_evaluate_and_test_on_own_choices(method, script, tmp_path, capsys):
    train = table(tmp_path / "train.jsonl", asked("letter") * 2)
    test = table(
        tmp_path / "test.json", [{**row, "answer": None, "id": f"q{n}"} for n, row in enumerate(asked("letter"))]
    )
    flags = ("--do_train", "--do_eval", "--do_test", "--train_file", train, "--test_file", test)
    if method == "asa":
        dev = table(tmp_path / "dev.parquet", asked("letter"))
        flags = (*flags, "--dev_file", dev)
    steps = {"asa": 20, "smart": 1}[method]
    assert script(run_multi_cho, *flags, task_name="films", method=method, max_train_steps=steps) == 0
    out = tmp_path / "out"
    best = results_of(out)["best"]
    lines = [line.split("\t") for line in (out / "films.tsv").read_text().split("\n")[:-1]]
    assert lines[0] == ["index", "prediction", *(f"probability_{place}" for place in range(4))]
    assert [line[0] for line in lines[1:]] == ["q0", "q1", "q2", "q3"]
    assert [len([cell for cell in line if cell]) for line in lines[1:]] == [4, 5, 6, 5]
    for line in lines[1:]:
        shares = [float(cell) for cell in line[2:] if cell]
        assert sum(shares) == pytest.approx(1, abs=1e-4)
        assert line[1] == "ABCD"[shares.index(max(shares))]
    if method == "smart":
        return
    right = [line[1] == "ABCD"[row[3]] for line, row in zip(lines[1:], QUESTIONS, strict=True)]
    assert best["eval_score"] == 100 * np.mean(right) == 100
    kept = read_predictions(out / "predictions" / "films.parquet")
    assert [len(row) for row in kept["logits"]] == [2, 3, 4, 3]
    given = ("--do_eval", "--dev_file", dev, "--test_model_file", str(out / "best"), "--eval_batch_size", "3")
    assert script(run_multi_cho, *given, output_dir=tmp_path / "again", max_train_steps=None) == 0
    again = json.loads((tmp_path / "again" / "evaluation.json").read_text())
    assert again["metrics"] == best["metrics"]
    assert again["eval_loss"] == pytest.approx(best["eval_loss"], rel=1e-5)


def test_the_token_cache_keeps_different_numbers_of_choices(tmp_path, encoder_folder, monkeypatch):
    monkeypatch.setattr("data.cache.CACHED_FROM", 0)
    _, sets = task_and_sets(
        "--do_train", "--train_file", table(tmp_path / "x.jsonl", asked("text")), script="run_multi_cho"
    )
    tokenizer = AutoTokenizer.from_pretrained(encoder_folder)
    found = cached(str(tmp_path / "cache"), choice_features, tokenizer, max_seq_length=32)(sets.train)
    assert isinstance(found, StoredFeatures)
    fresh = choice_features(list(sets.train), tokenizer, max_seq_length=32)
    assert found.choices == fresh.choices == [2, 3, 4, 3]
    assert [found[row] for row in range(4)] == [fresh[row] for row in range(4)]


# --- all the rest ---


def test_two_processes_share_rows_with_different_numbers_of_choices(script, tmp_path, encoder_folder):
    """One of them may have more batches of a step than the other."""
    train = table(tmp_path / "train.jsonl", asked("letter") * 2)
    given = [
        "--do_train",
        "--do_eval",
        "--train_file",
        train,
        "--dev_fraction",
        "0.25",
        "--task_name",
        "x",
        "--no_cuda",
    ]
    given += ["--load_model_path", encoder_folder, "--max_seq_length", "32", "--train_batch_size", "4"]
    given += ["--max_train_steps", "2", "--output_dir"]
    assert exit_status(run_multi_cho.main, *given, str(tmp_path / "one")) == 0
    done = run_twofold([*given, str(tmp_path / "two")], str(ROOT / "run_multi_cho.py"))
    assert done.returncode == 0, done.stderr
    one, two = (results_of(tmp_path / name)["best"] for name in ("one", "two"))
    assert [two[name] for name in ("train_loss", "eval_loss")] == pytest.approx(
        [one[name] for name in ("train_loss", "eval_loss")], rel=1e-5
    )
    assert two["metrics"] == one["metrics"]


@pytest.mark.parametrize(
    ("write", "name", "script_name"),
    [
        (lambda path: table(path, rows_of_films(6)), "train.csv", "run_sent_clas"),
        (lambda path: table(path, rows_of_films(6)), "train.tsv", "run_sent_clas"),
        (lambda path: table(path, asked("letter", "columns")), "train.csv", "run_multi_cho"),
        (lambda path: table(path, asked("text")), "train.jsonl", "run_multi_cho"),
        (lists, "train.parquet", "run_tok_clas"),
        (lambda path: conll(path, mark=False), "train.tsv", "run_tok_clas"),
        (conll, "train.txt", "run_tok_clas"),
    ],
)
def test_a_folder_is_a_task_of_a_grid(write, name, script_name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "mine" / name)
    args, extra = reproduce.parse_arguments(["main", "--tasks", "sst-2,mine", "--output_dir", "runs", "--seeds", "2"])
    tasks = [args.own_tasks.get(task) or TASKS[task] for task in args.tasks]
    runs = plan.plan_runs(Path("runs"), tasks, reproduce.variants_of(args), args.seeds, extra)
    mine = [run for run in runs if run.name.startswith("mine/")]
    assert [run.name for run in mine] == [
        f"mine/{method}/seed{seed}" for seed in (42, 43) for method in ("naive", "asa")
    ]
    for run in mine:
        assert Path(run.command[1]).stem == script_name
        assert (run.args["dataset_name"], run.args["dev_fraction"]) == ("mine", 0.1)
        again = own.task_of(arguments.of_script(script_name, run.command[2:]), arguments.SCRIPTS[script_name].tasks)
        assert (again.name, again.script) == ("mine", script_name)
    assert mine[0].steps == 3  # epochs of one step
    write(tmp_path / "mine" / name.replace("train", "dev"))
    assert plan.folder_task("mine").recipe.settings() == {"dataset_name": "mine"}


def test_folders_that_cannot_be_a_task_of_a_grid(tmp_path):
    def said(tasks: str) -> str:
        return message(reproduce.parse_arguments, ["main", "--tasks", tasks, "--output_dir", str(tmp_path)])

    table(tmp_path / "a" / "mine" / "train.csv", rows_of_films(6))
    table(tmp_path / "b" / "mine" / "train.csv", rows_of_films(6))
    assert "another folder is called mine too: rename one" in said(f"{tmp_path}/a/mine,{tmp_path}/b/mine")
    assert said(f"{tmp_path}/a") == f"--tasks {tmp_path}/a: it has no training file, train.csv or the like"
    assert said(f"{tmp_path}/c").startswith(f"--tasks {tmp_path}/c: no such task; ")


def test_a_grid_of_own_data_and_its_report(encoder_folder, tmp_path, capsys):
    table(tmp_path / "mine" / "train.csv", rows_of_films(8))
    table(tmp_path / "mine" / "dev.csv", rows_of_films(4))
    grid = ["main", "--tasks", str(tmp_path / "mine"), "--methods", "naive", "--seeds", "1", "--max_train_steps", "1"]
    grid += ["--encoder", encoder_folder, "--output_dir", str(tmp_path / "runs"), "--no_cuda"]
    grid += ["--", "--metric", "macro_f1", "--max_seq_length", "32"]
    for _ in range(2):  # the second time it is finished
        assert exit_status(reproduce.main, *grid) == 0
    assert "1 runs, 1 finished, 0 to do" in capsys.readouterr().err
    [row] = report_table(tmp_path / "runs", "Main table")
    assert (row["task"], row["scored on"], row["metric"]) == ("mine", "dev, 4", "macro f1")
    place = f"{tmp_path.name}/mine"
    assert row["settings"] == f"fp32, max_seq_length 32, max_train_steps 1, dataset_name {place}, metric macro_f1"


def own_run(folder: Path, method: str, seed: int, score: float, **args) -> Path:
    """A finished run on own data, as the script leaves it."""
    path = write_run(folder, method, seed, [score], name=f"{method}{seed}-{len(list(folder.glob('*')))}")
    record = results_of(path)
    record["args"] |= {"task_name": "mine", "train_file": ["a/train.csv"], "dev_file": ["a/dev.csv"]} | args
    (path / "results.json").write_text(json.dumps(record))
    return path


def test_the_report_knows_own_data_by_the_names_of_their_files(tmp_path):
    for seed, place in ((1, "a"), (2, "elsewhere")):
        own_run(tmp_path, "naive", seed, 80.0, train_file=[f"{place}/train.csv"])
        own_run(tmp_path, "asa", seed, 81.0 + seed, train_file=[f"{place}/train.csv"])
    own_run(tmp_path, "naive", 1, 70.0, train_file=["a/other.csv"])
    own_run(tmp_path, "naive", 1, 60.0, dev_file=["a/other.csv"])
    write_run(tmp_path, "naive", 1, [50.0], name="known")
    rows = report_table(tmp_path, "Main table")
    mine = "bf16, learning_rate 2e-05, train_file {}, dev_file {}"
    assert [tuple(row[name] for name in ("task", "method", "settings", "n", "last epoch")) for row in rows] == [
        ("SST-2", "naive", "bf16", "1", "50.00"),
        ("mine", "naive", mine.format("other.csv", "dev.csv"), "1", "70.00"),
        ("mine", "naive", mine.format("train.csv", "dev.csv"), "2", "80.00 ± 0.00"),
        ("mine", "asa", mine.format("train.csv", "dev.csv"), "2", "82.50 ± 0.71"),
        ("mine", "naive", mine.format("train.csv", "other.csv"), "1", "60.00"),
    ]


def kept_predictions(folder: Path, labels: list[int], found: list[int]) -> None:
    rows = Features({"input_ids": [[1]] * len(labels)}, labels)
    write_predictions(folder / "predictions" / "mine.parquet", rows, [np.eye(3)[label] for label in found])


@pytest.mark.parametrize(
    ("metric", "labels", "args", "over_rows"),
    [
        ("accuracy", [0, 2, 1, 0], {}, True),
        ("macro_f1", [0, 2, 1, 0], {"metric": "macro_f1"}, False),
        ("matthews", [0, 1, 1, 0], {"metric": "matthews"}, True),
        ("matthews", [0, 2, 1, 0], {"metric": "matthews"}, False),
        ("accuracy", [0, 2, 1, 0], {"dev_fraction": 0.1}, False),
    ],
)
def test_intervals_over_rows_where_they_can_be_made(metric, labels, args, over_rows, tmp_path):
    for seed in (1, 2):
        for method in ("naive", "asa"):
            folder = own_run(tmp_path, method, seed, 80.0 + seed * (method == "asa"), **args)
            record = json.loads((folder / "results.json").read_text())
            record["epochs"][0]["metrics"] = {metric: record["epochs"][0]["eval_score"]}
            (folder / "results.json").write_text(json.dumps(record))
            other = labels[seed - 1 :] + labels[: seed - 1] if "dev_fraction" in args else labels
            kept_predictions(folder, other, [1, *other[1:]] if method == "asa" else other)
    said = [row["difference from fine-tuning, last epoch"] for row in report_table(tmp_path, "Main table")]
    assert ["rows too [" in cell for cell in said] == [False, over_rows]


def test_attention_maps_of_a_model_of_own_data(script, tmp_path, encoder_folder, monkeypatch, capsys):
    file = table(tmp_path / "x.csv", rows_of_films(4))
    assert script(run_sent_clas, "--do_train", "--train_file", file, max_train_steps=1) == 0
    monkeypatch.setattr(Figure, "savefig", lambda self, path, **_: path.touch())
    flags = ["--model_file", str(tmp_path / "out" / "0_pytorch_model.bin"), "--load_model_path", encoder_folder]
    flags += ["--text", "a warm film", "--output_dir", str(tmp_path / "maps")]
    capsys.readouterr()
    attention_maps.main(flags)
    assert re.search(r"prediction: (good|bad) 0\.\d\d, under the mask (good|bad) 0\.\d\d", capsys.readouterr().out)
    assert (tmp_path / "maps" / "attention_maps.png").exists()
    (tmp_path / "out" / "best" / "config.json").unlink()
    assert message(attention_maps.main, flags).startswith("--task_name is missing, and there is no best/ folder beside")


def test_training_curves_of_own_data(tmp_path):
    folder = own_run(tmp_path, "asa", 3, 80.0)
    (folder / "metrics.jsonl").write_text('{"step": 1, "train_loss": 1.0}\n')
    assert training_curves.read_run(folder).label == "mine, asa, seed 3"
