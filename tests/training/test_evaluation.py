"""Evaluation beyond a task's own dev set: any file in its format, other sets of the same classes, and HANS."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import save_tiny_encoder
from script_runs import REAL_DATA, message, needs_real_data, run_folder
from test_data import FORMATS, write
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

import run_multi_cho
import run_sent_clas
import run_tok_clas
from data.classes import model_classes
from data.examples import Example
from data.metrics import by_group
from data.predictions import read_predictions
from data.readers import read_set, task_folder
from data.tasks import ENTAILMENT, NLI, SENTENCE_TASKS
from models.checkpoints import save_checkpoint, saved_classes
from models.heads import named_labels
from training import evaluation

HANS = SENTENCE_TASKS["HANS"]
HANS_HEADER = (
    "gold_label\tsentence1_binary_parse\tsentence2_binary_parse\tsentence1_parse\tsentence2_parse"
    "\tsentence1\tsentence2\tpairID\theuristic\tsubcase\ttemplate"
)
HEURISTICS = ("constituent", "lexical_overlap", "subsequence")


@pytest.fixture
def evaluate(encoder_folder, tmp_path, monkeypatch):
    """Evaluate a checkpoint: evaluate(task, checkpoint, flags) -> what evaluation.json holds."""
    monkeypatch.chdir(tmp_path)

    def run(task: str, checkpoint, *flags: str, main=run_sent_clas.main, folder: str = "evaluation") -> dict:
        flags = ("--do_eval", "--test_model_file", str(checkpoint), *flags)
        out = run_folder(main, tmp_path / "data", encoder_folder, tmp_path / folder, task, *flags)
        return json.loads((out / "evaluation.json").read_text())

    return run


def tiny_classifier(encoder: str, classes: tuple[str, ...]):
    """A random classifier whose predictions depend on the sentence, so that no class is always the answer."""
    config = AutoConfig.from_pretrained(encoder, **named_labels(classes))
    torch.manual_seed(3)
    return AutoModelForSequenceClassification.from_config(config).float()


def saved(encoder: str, classes: tuple[str, ...], folder: Path) -> tuple[Path, Path]:
    """The same classifier as a file, and as a stock folder, which names its classes."""
    model = tiny_classifier(encoder, classes)
    save_checkpoint(model, folder / "model.bin")
    model.save_pretrained(folder / "model")
    return folder / "model.bin", folder / "model"


def predicted(encoder: str, classes: tuple[str, ...], pairs: list[tuple[str, ...]]) -> list[str]:
    """What transformers alone says of each pair."""
    model, tokenizer = tiny_classifier(encoder, classes).eval(), AutoTokenizer.from_pretrained(encoder)
    with torch.no_grad():
        logits = [model(**tokenizer(*pair, return_tensors="pt")).logits[0] for pair in pairs]
    return [classes[row.argmax()] for row in logits]


def some_pairs(count: int, words: int = 4) -> list[tuple[str, str]]:
    choose = random.Random(0)
    vocabulary = "film plot drama script bad good slow lovely vivid warm is not the".split()
    return [tuple(" ".join(choose.choices(vocabulary, k=words)) for _ in range(2)) for _ in range(count)]


def hans_file(path: Path, pairs) -> list[tuple[str, str]]:
    """Write pairs in the official format; gives the (label, heuristic) of each."""
    rows = [(HANS.labels[row % 2], HEURISTICS[row % 3]) for row in range(len(pairs))]
    lines = [
        f"{label}\t( A )\t( B )\t(A)\t(B)\t{a}\t{b}\tex{row}\t{heuristic}\tln_x\ttemp1"
        for row, ((a, b), (label, heuristic)) in enumerate(zip(pairs, rows, strict=True))
    ]
    write(path, HANS_HEADER, *lines)
    return rows


# --- a file of one's own ---


def test_eval_file_takes_the_place_of_the_dev_sets(evaluate, encoder_folder, tmp_path):
    """It needs no folder of the task; path and scores stand in the record."""
    pairs = some_pairs(12)
    words = predicted(encoder_folder, NLI, pairs)
    assert len(set(words)) > 1
    gold = [word if row % 4 else "neutral" for row, word in enumerate(words)]
    columns = FORMATS["MNLI"][0].split("\t")
    rows = [
        "\t".join({"sentence1": a, "sentence2": b, "gold_label": label}.get(column, "x") for column in columns)
        for (a, b), label in zip(pairs, gold, strict=True)
    ]
    own = str(write(tmp_path / "my file.tsv", "\t".join(columns), *rows))
    checkpoint, _ = saved(encoder_folder, NLI, tmp_path)
    record = evaluate("MNLI", checkpoint, "--eval_file", own)
    right = sum(word == label for word, label in zip(words, gold, strict=True))
    assert record["metrics"] == {"accuracy": pytest.approx(100 * right / 12)}
    assert record["eval_score"] == record["metrics"]["accuracy"] != 100
    assert (record["args"]["eval_file"], record["examples"]) == (own, {"eval": 12})


def test_logits_may_be_fetched_in_parts(evaluate, encoder_folder, tmp_path, monkeypatch):
    model, _ = saved(encoder_folder, ("no", "yes"), tmp_path)
    rows = str(write(tmp_path / "rows.tsv", "sentence\tlabel", *(f"{text}\t1" for text, _ in some_pairs(9))))
    found = []
    for together in (1, 2, 100):
        monkeypatch.setattr(evaluation, "FETCHED_TOGETHER", together)
        evaluate("SST-2", model, "--eval_file", rows, "--eval_batch_size", "2", folder=f"by {together}")
        [path] = (tmp_path / f"by {together}" / "predictions").iterdir()
        found.append(read_predictions(path))
    assert len(found[0]["logits"]) == 9
    for other in found[1:]:
        assert np.array_equal(np.array(other["logits"]), np.array(found[0]["logits"]))


def test_eval_file_of_the_other_scripts(evaluate, encoder_folder, tmp_path):
    """A model is trained for a step, and then scored on a file that is no part of the task's folder."""
    rows = [
        json.dumps({"ind": row, "ctx": "a plot", "endings": ["is warm", "is dull"], "label": row % 2})
        for row in range(4)
    ]
    tags = ["the\tO", "film\tB-person", ""]
    write(tmp_path / "data" / "hellaswag" / "hellaswag_train.jsonl", *rows)
    write(tmp_path / "data" / "wnut17" / "train.txt", *tags)
    for task, main, own in (
        ("HellaSWAG", run_multi_cho.main, write(tmp_path / "own.jsonl", *rows[:3])),
        ("WNUT-2017", run_tok_clas.main, write(tmp_path / "own.conll", *tags * 2)),
    ):
        run_folder(main, tmp_path / "data", encoder_folder, tmp_path / task, task, "--do_train")
        checkpoint = tmp_path / task / "0_pytorch_model.bin"
        record = evaluate(task, checkpoint, "--eval_file", str(own), main=main, folder=f"{task} on own")
        assert record["examples"] == {"eval": {"HellaSWAG": 3, "WNUT-2017": 2}[task]}
        assert record["args"]["eval_file"] == str(own)
    wrong = ("--task_name", "SWAG", "--do_eval", "--test_model_file", str(checkpoint), "--eval_file")
    wrong += (str(write(tmp_path / "own.txt", "x")), "--load_model_path", encoder_folder, "--max_seq_length", "40")
    assert message(run_multi_cho.main, wrong).endswith(
        "own.txt: the name of a multiple-choice file ends in .json, .csv, .jsonl"
    )


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--do_train", "--do_eval"], "--eval_file and --do_train exclude each other: train first"),
        (
            ["--do_test", "--test_model_file", "model.bin"],
            "--eval_file names what --do_eval is to score: add --do_eval",
        ),
        (
            ["--do_eval", "--test_model_file", "model.bin", "--eval_on", "test"],
            "--eval_file and --eval_on test exclude each other",
        ),
        (["--do_eval", "--test_model_file", "model.bin"], "--eval_file own.tsv: no such file"),
    ],
)
def test_what_contradicts_an_eval_file(flags, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "model.bin")
    given = ["--task_name", "SST-2", "--eval_file", "own.tsv", "--output_dir", "out", *flags]
    assert message(run_sent_clas.main, given).startswith(expected)
    assert not (tmp_path / "out").exists()


# --- other sets with the same classes ---


def test_models_of_mnli_on_anli_and_of_qqp_on_paws(evaluate, encoder_folder, tmp_path):
    """From a file and from a folder that names its classes; the scores are those of transformers alone."""
    pairs = some_pairs(9)
    letters = {"e": "entailment", "n": "neutral", "c": "contradiction"}
    words = predicted(encoder_folder, NLI, pairs)
    for number in range(3):
        part = list(zip(pairs, "encnecenc", strict=True))[number::3]
        rows = [json.dumps({"context": a, "hypothesis": b, "label": letter}) for (a, b), letter in part]
        write(tmp_path / "data" / "ANLI" / f"R{number + 1}" / "test.jsonl", *rows)
    right = [word == letters[letter] for word, letter in zip(words, "encnecenc", strict=True)]
    expected = {"accuracy": 100 * np.mean(right)}
    expected |= {f"R{number + 1}/accuracy": 100 * np.mean(right[number::3]) for number in range(3)}
    (tmp_path / "mnli").mkdir()
    for number, checkpoint in enumerate(saved(encoder_folder, NLI, tmp_path / "mnli")):
        record = evaluate("ANLI", checkpoint, "--eval_on", "test", folder=f"anli{number}")
        assert record["metrics"] == pytest.approx(expected)
        assert record["eval_loss"] > 0

    duplicates = predicted(encoder_folder, ("0", "1"), pairs)
    rows = [f"{row}\tb'{a}'\tb'{b}'\t{row % 2}" for row, (a, b) in enumerate(pairs)]
    write(tmp_path / "data" / "PAWS-QQP" / "dev_and_test.tsv", "id\tsentence1\tsentence2\tlabel", *rows)
    (tmp_path / "qqp").mkdir()
    for number, checkpoint in enumerate(saved(encoder_folder, ("0", "1"), tmp_path / "qqp")):
        record = evaluate("PAWS-QQP", checkpoint, folder=f"paws{number}")
        right = [word == str(row % 2) for row, word in enumerate(duplicates)]
        assert record["metrics"]["accuracy"] == pytest.approx(100 * np.mean(right))


# --- HANS ---


def test_hans_in_its_official_format(tmp_path):
    pairs = some_pairs(2)
    hans_file(tmp_path / "hans" / "heuristics_evaluation_set.txt", pairs)
    examples = read_set(HANS, HANS.dev["HANS"], task_folder(tmp_path, "HANS"), labelled=True)
    assert list(examples) == [
        Example(pairs[0], 0, "ex0", ("constituent",)),
        Example(pairs[1], 1, "ex1", ("lexical_overlap",)),
    ]


@pytest.mark.parametrize(
    ("classes", "named"),
    [(NLI, NLI), (ENTAILMENT, ENTAILMENT), (NLI, ("ENTAILMENT", "NEUTRAL", "CONTRADICTION")), (NLI, None)],
    ids=["three", "two", "another order", "without names"],
)
def test_hans_by_a_model_of_another_task(classes, named, evaluate, encoder_folder, tmp_path):
    """Neutral and contradiction count as non-entailment; a folder that names its classes may have any order of them."""
    pairs = some_pairs(24)
    rows = hans_file(tmp_path / "data" / "HANS" / "heuristics_evaluation_set.txt", pairs)
    checkpoint, folder = saved(encoder_folder, classes, tmp_path)
    runs = {"file": (checkpoint, classes)}
    if named is None:
        config = json.loads((folder / "config.json").read_text())
        del config["id2label"], config["label2id"]
        (folder / "config.json").write_text(json.dumps(config | {"num_labels": 3}))
        runs = {"folder": (folder, classes)}
    elif named != classes:
        tiny_classifier(encoder_folder, named).save_pretrained(folder)
        runs = {"folder": (folder, named)}
    else:
        runs["folder"] = (folder, classes)
    for name, (source, order) in runs.items():
        words = [word.lower() for word in predicted(encoder_folder, order, pairs)]
        answers = ["entailment" if word == "entailment" else "non-entailment" for word in words]
        assert set(answers) == set(HANS.labels)
        record = evaluate("hans", source, "--do_test", folder=name)
        right = np.array([answer == label for answer, (label, _) in zip(answers, rows, strict=True)])
        expected = {"accuracy": right.mean()}
        for label in HANS.labels:
            expected[f"{label}/accuracy"] = right[[row[0] == label for row in rows]].mean()
        for heuristic in HEURISTICS:
            of_it = np.array([row[1] == heuristic for row in rows])
            expected[f"{heuristic}/accuracy"] = right[of_it].mean()
            for label in HANS.labels:
                expected[f"{heuristic}/{label}/accuracy"] = right[of_it & [row[0] == label for row in rows]].mean()
        assert record["metrics"] == pytest.approx({name: 100 * value for name, value in expected.items()})
        assert record["eval_loss"] is None
        kept = read_predictions(tmp_path / name / "predictions" / "HANS.parquet")
        assert [HANS.labels[np.argmax(row)] for row in kept["logits"]] == answers
        assert [HANS.labels[label] for label in kept["label"]] == [label for label, _ in rows]
        table = [line.split("\t") for line in (tmp_path / name / "HANS.tsv").read_text().splitlines()]
        assert table == [["index", "prediction"], *([f"ex{row}", answer] for row, answer in enumerate(answers))]


def test_the_line_of_an_evaluation_without_a_loss(evaluate, encoder_folder, tmp_path, capsys):
    hans_file(tmp_path / "data" / "HANS" / "heuristics_evaluation_set.txt", some_pairs(4))
    record = evaluate("HANS", saved(encoder_folder, NLI, tmp_path)[0])
    assert capsys.readouterr().out == f"eval score = {record['eval_score']:.2f}\n"


def test_hans_takes_no_other_model_and_no_training(encoder_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "HANS" / "heuristics_evaluation_set.txt", HANS_HEADER)
    given = ["--task_name", "HANS", "--data_dir", str(tmp_path), "--load_model_path", encoder_folder]
    assert message(run_sent_clas.main, [*given, "--do_train"]) == (
        "--do_train: HANS is for evaluation alone; train on another task, then give --do_eval"
        " --test_model_file CHECKPOINT"
    )
    taken = "HANS takes a model of contradiction, entailment, neutral or entailment, not_entailment"
    checkpoint, folder = saved(encoder_folder, ("0", "1"), tmp_path)
    assert message(run_sent_clas.main, [*given, "--do_eval", "--test_model_file", str(folder)]) == (
        f"--test_model_file {folder}: its classes are 0, 1; {taken}"
    )
    assert message(model_classes, HANS, [f"LABEL_{i}" for i in range(4)], "it").startswith(
        "it: its classes are LABEL_0"
    )
    save_tiny_encoder(tmp_path / "plain")
    torch.save({"bert.weight": torch.ones(2)}, checkpoint)
    assert message(saved_classes, checkpoint).endswith(
        "not the checkpoint of a sentence classifier: it has no classifier.weight"
    )
    assert not (tmp_path / "model" / "results.json").exists()


def test_accuracies_by_group():
    groups = [("a", "x"), ("a", "y"), ("b", "x"), ("b", "y")]
    assert by_group([0, 1, 0, 0], np.array([0, 0, 0, 1]), ("yes", "no"), groups) == {
        "yes/accuracy": pytest.approx(200 / 3),
        "no/accuracy": 0.0,
        "a/accuracy": 50.0,
        "b/accuracy": 50.0,
        "x/accuracy": 100.0,
        "y/accuracy": 0.0,
        "a/yes/accuracy": 100.0,
        "a/no/accuracy": 0.0,
        "b/yes/accuracy": 50.0,
        "x/yes/accuracy": 100.0,
        "y/yes/accuracy": 0.0,
        "y/no/accuracy": 0.0,
    }
    assert by_group([0, 1], np.array([0, 0]), ("yes", "no"), [(), ()]) == {}


@needs_real_data
@pytest.mark.parametrize(
    ("name", "split", "count", "labels"),
    [
        ("HANS", "dev", 15000, (7500, 7500)),
        ("ANLI", "test", 3200, (1062, 1070, 1068)),
        ("PAWS-QQP", "dev", 677, (486, 191)),
    ],
)
def test_real_files(name, split, count, labels):
    """HANS: the set of the same templates that a public repository has in place of the official file."""
    task = SENTENCE_TASKS[name]
    examples = read_set(task, getattr(task, split)[name], task_folder(REAL_DATA, name), labelled=True)
    assert len(examples) == count
    assert tuple(np.bincount([example.label for example in examples])) == labels
