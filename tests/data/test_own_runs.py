"""Runs on data of the user's own: held-out rows, several sets, resuming, folders of `datasets`, and metrics."""

import json
from pathlib import Path

import datasets
import numpy as np
import pytest
from own_tables import BAD, GOOD, rows_of_films, table, task_and_sets
from script_runs import message, results_of
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

import run_sent_clas
from data import metrics, own, own_flags
from data.cache import StoredFeatures, cached
from data.features import sentence_features
from data.readers import read_splits
from data.tasks import SENTENCE_TASKS
from training import arguments

pytestmark = pytest.mark.usefixtures("offline")


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
    again = ("--do_test", "--test_file", test, "--test_model_file", str(out), "--predictions_format", "jsonl")
    assert script(run_sent_clas, *again, task_name="films", max_train_steps=None) == 0
    assert [json.loads(line) for line in (out / "films.jsonl").read_text().splitlines()] == [
        {"index": line[0], "prediction": line[1], "probabilities": {"bad": float(line[2]), "good": float(line[3])}}
        for line in lines[1:]
    ]
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
    assert not (out / "films.jsonl").exists()


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
    assert f"{other}, line 5: the only row (of 4) with a label that films does not have ('fair')" in caplog.text
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
    assert again["metrics"]["pearson"] == pytest.approx(results_of(out)["best"]["metrics"]["pearson"])  # near 100


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


def test_for_predictions_alone_the_training_file_says_the_classes(tmp_path):
    (tmp_path / "alone.bin").touch()
    rows = [{"text": row["text"], "verdict": row["label"]} for row in rows_of_films(4)]
    given = ("--do_test", "--test_model_file", tmp_path / "alone.bin", "--task_name", "films", "--test_file")
    given = (*given, table(tmp_path / "test.csv", [{"text": "a film"}] * 2), "--train_file")
    task, sets = task_and_sets(*given, table(tmp_path / "train.csv", rows))
    assert task.labels == ("bad", "good")
    assert [(row.texts, row.label) for row in sets.test["films"]] == [(("a film",), None)] * 2


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
    assert "the training data, or how it is tokenised, has changed since then" in capsys.readouterr().err
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


def test_a_split_of_the_very_name_comes_before_others(tmp_path):
    whole = datasets.Dataset.from_list(rows_of_films(6))
    names = ("train_small", "train", "dev", "validation_small")
    found = datasets.DatasetDict({name: whole.select(range(4)) if "small" in name else whole for name in names})
    found.save_to_disk(tmp_path / "films")
    _, sets = task_and_sets("--do_train", "--do_eval", "--dataset_name", tmp_path / "films")
    assert (len(sets.train), len(sets.eval["films"])) == (6, 6)


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
    assert {*own_flags.METRICS["run_sent_clas"]} == metrics.METRICS.keys()
    assert {*own_flags.METRICS["run_tok_clas"]} <= metrics.WORD_METRICS.keys()
