"""Tasks, readers, features, metrics and submissions, on small text of our own in the official formats."""

import argparse
import json
import os
from pathlib import Path

import numpy as np
import pytest
from conftest import save_tiny_encoder
from transformers import AutoTokenizer

from data import demo, metrics
from data.examples import Example
from data.features import sentence_features
from data.readers import read_file, read_set, read_splits, task_folder
from data.submission import write_submission
from data.tasks import SENTENCE_TASKS, find_task
from utils import InputError, write_json

# task -> labelled header and row, text and label of that row, header of a test file
FORMATS = {
    "CoLA": (None, "gj04\t1\t\tA plot.", ("A plot.",), 1, "index\tsentence"),
    "SST-2": ("sentence\tlabel", "a plot \t0", ("a plot ",), 0, "index\tsentence"),
    "MRPC": (
        "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String",
        '1\t7\t8\t"A plot\tThe "plot"',
        ('"A plot', 'The "plot"'),
        1,
        "index\t#1 ID\t#2 ID\t#1 String\t#2 String",
    ),
    "STS-B": (
        "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore",
        "0\tg\tf\ty\to\ts\ts\tA plot.\tThe plot.\t3.750",
        ("A plot.", "The plot."),
        3.75,
        "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2",
    ),
    "QQP": (
        "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate",
        "5\t1\t2\tA plot?\tThe plot?\t1",
        ("A plot?", "The plot?"),
        1,
        "id\tquestion1\tquestion2",
    ),
    "MNLI": (
        "index\tpromptID\tpairID\tgenre\tsentence1_binary_parse\tsentence2_binary_parse\tsentence1_parse"
        "\tsentence2_parse\tsentence1\tsentence2\tlabel1\tgold_label",
        "0\tp\tq\tg\t( A )\t( B )\t(A)\t(B)\tA plot.\tThe plot.\tneutral\tneutral",
        ("A plot.", "The plot."),
        2,
        "index\tpromptID\tpairID\tgenre\tsentence1_binary_parse\tsentence2_binary_parse\tsentence1_parse"
        "\tsentence2_parse\tsentence1\tsentence2",
    ),
    "QNLI": (
        "index\tquestion\tsentence\tlabel",
        "0\tWhat plot?\tThe plot.\tnot_entailment",
        ("What plot?", "The plot."),
        1,
        "index\tquestion\tsentence",
    ),
    "RTE": (
        "index\tsentence1\tsentence2\tlabel",
        "0\tA plot.\tThe plot.\tentailment",
        ("A plot.", "The plot."),
        0,
        "index\tsentence1\tsentence2",
    ),
    "WNLI": (
        "index\tsentence1\tsentence2\tlabel",
        "0\tA plot.\tThe plot.\t1",
        ("A plot.", "The plot."),
        1,
        "index\tsentence1\tsentence2",
    ),
    "PAWS-QQP": (
        "id\tsentence1\tsentence2\tlabel",
        "1\tb'A caf\\xc3\\xa9 , a plot ?'\tb\"The plot 's ?\"\t0",
        ("A café , a plot ?", "The plot 's ?"),
        0,
        None,
    ),
    "DEMO": ("sentence\tlabel", "a plot\t1", ("a plot",), 1, "index\tsentence"),
}


def write(path: Path, *lines: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes("".join(f"{line}\n" for line in lines).encode())
    return path


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_official_format(name, tmp_path):
    header, row, texts, label, test_header = FORMATS[name]
    labelled = write(tmp_path / "train.tsv", *([header] if header else []), row, row)
    examples = read_file(SENTENCE_TASKS[name], labelled, labelled=True)
    assert [(example.texts, example.label) for example in examples] == [(texts, label)] * 2
    if test_header:
        columns = test_header.split("\t")
        names = [next(column for column in columns if column in text) for text in SENTENCE_TASKS[name].text]
        values = dict.fromkeys(columns, "x") | {columns[0]: "17"} | dict(zip(names, texts, strict=True))
        path = write(tmp_path / "test.tsv", test_header, "\t".join(values.values()))
        assert read_file(SENTENCE_TASKS[name], path, labelled=False) == [Example(texts, None, "17")]


def test_anli_from_its_rounds(tmp_path):
    for name, label in (("R1", "e"), ("R2", "n"), ("R3", "c")):
        row = {"uid": f"u{name}", "context": f"A {name} plot.", "hypothesis": "The plot.", "label": label, "reason": ""}
        write(tmp_path / name / "dev.jsonl", json.dumps(row))
    task = SENTENCE_TASKS["ANLI"]
    together = read_set(task, task.dev["ANLI"], tmp_path, labelled=True)
    assert [(example.texts[0], task.labels[example.label]) for example in together] == [
        ("A R1 plot.", "entailment"),
        ("A R2 plot.", "neutral"),
        ("A R3 plot.", "contradiction"),
    ]
    assert list(read_set(task, task.dev["R2"], tmp_path, labelled=True)) == [together[1]]
    assert list(task.dev) == ["ANLI", "R1", "R2", "R3"]


def test_anli_in_one_file_as_the_release_has_it(tmp_path):
    task = SENTENCE_TASKS["ANLI"]
    write(tmp_path / "ANLI" / "dev.tsv", "sentence1\tsentence2\tlabel", "A plot.\tThe plot.\tneutral")
    args = argparse.Namespace(
        data_dir=tmp_path, do_train=False, do_eval=True, do_test=False, eval_on="dev", eval_file=None
    )
    splits = read_splits(task, args)
    assert list(splits.eval) == ["ANLI"]
    assert list(splits.eval["ANLI"]) == [Example(("A plot.", "The plot."), 2, None)]


def test_mnli_has_two_dev_sets_and_the_diagnostic_set(tmp_path):
    header, row, *_, test_header = FORMATS["MNLI"]
    folder = tmp_path / "mnli"
    write(folder / "dev_matched.tsv", header, row)
    for name in ("test_matched.tsv", "test_mismatched.tsv"):
        write(folder / name, test_header, row.rsplit("\t", 2)[0])
    args = argparse.Namespace(
        data_dir=tmp_path, do_train=False, do_eval=True, do_test=True, eval_on="dev", eval_file=None
    )
    task = SENTENCE_TASKS["MNLI"]
    splits = read_splits(task, args)
    assert list(splits.eval) == ["MNLI-m"]  # the mismatched set is left out where it is missing
    assert list(splits.test) == ["MNLI-m", "MNLI-mm"]
    write(folder / "dev_mismatched.tsv", header, row, row)
    write(tmp_path / "AX" / "diagnostic.tsv", "index\tsentence1\tsentence2", "0\tA plot.\tThe plot.")
    splits = read_splits(task, args)
    assert {name: len(examples) for name, examples in splits.eval.items()} == {"MNLI-m": 1, "MNLI-mm": 2}
    assert [task.submissions[name].submission for name in splits.test] == ["MNLI-m", "MNLI-mm", "AX"]
    assert splits.counts() == {"eval": 1, "test": 1}


def test_broken_qqp_rows_are_counted_and_reported(tmp_path, caplog):
    header, row, *_ = FORMATS["QQP"]
    caplog.set_level("WARNING", "asa")
    path = write(tmp_path / "train.tsv", header, row, "6\t1\t2\tA question with a", "line break?\tThe plot?\t0", row)
    assert len(read_file(SENTENCE_TASKS["QQP"], path, labelled=True)) == 2
    assert "2 rows with too few columns are left out (lines 3, 4)" in caplog.text
    path = write(tmp_path / "train.tsv", header, row, *["6\t1"] * 11)
    with pytest.raises(InputError, match="line 13: 2 columns where 6 are expected"):
        read_file(SENTENCE_TASKS["QQP"], path, labelled=True)
    with pytest.raises(InputError, match="line 3: 2 columns where 6"):
        read_file(SENTENCE_TASKS["QQP"], path, labelled=False)  # of a test file no row may be missing


def test_absent_files(tmp_path):
    task = SENTENCE_TASKS["SST-2"]
    with pytest.raises(InputError, match=r"train\.tsv: no such file"):
        read_set(task, task.train, tmp_path, labelled=True)
    with pytest.raises(InputError, match="no folder SST-2"):
        task_folder(tmp_path, "SST-2")
    with pytest.raises(InputError, match="no such folder"):
        task_folder(tmp_path / "absent", "SST-2")
    (tmp_path / "sst-2").mkdir()
    assert task_folder(tmp_path, "SST-2").name == "sst-2"


def test_task_names_in_any_case_and_the_nearest():
    assert find_task("sts-B", SENTENCE_TASKS).name == "STS-B"
    with pytest.raises(InputError, match=r"--task_name SST2: no such task; did you mean SST-2\?"):
        find_task("SST2", SENTENCE_TASKS)
    with pytest.raises(InputError, match="known tasks are CoLA, SST-2, MRPC"):
        find_task("xyzzy", SENTENCE_TASKS)
    assert len(SENTENCE_TASKS) == 11 + 2  # and HANS and DEMO


@pytest.mark.skipif("ASA_DATA_DIR" not in os.environ, reason="ASA_DATA_DIR names no folder of official files")
@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("SST-2", (67349, 872, 1821)),
        ("CoLA", (8551, 1043, 1063)),
        ("MRPC", (3668, 408, 1725)),
        ("STS-B", (5749, 1500, 1379)),
        ("WNLI", (635, 71, 146)),
    ],
)
def test_official_files_are_read_completely(name, counts):
    args = argparse.Namespace(
        data_dir=os.environ["ASA_DATA_DIR"], do_train=True, do_eval=True, do_test=True, eval_on="dev", eval_file=None
    )
    assert tuple(read_splits(SENTENCE_TASKS[name], args).counts().values()) == counts


# --- features ---


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    save_tiny_encoder(folder)
    return AutoTokenizer.from_pretrained(folder)


def test_features_cut_the_longer_text_first(tokenizer):
    pair = Example(("a warm film with a fresh plot", "dull music"), 1, None)
    features = sentence_features([pair, pair], tokenizer, max_seq_length=9)
    words = tokenizer.convert_ids_to_tokens(features[1]["input_ids"])
    assert words == ["[CLS]", "a", "warm", "film", "with", "[SEP]", "dull", "music", "[SEP]"]
    assert features[0]["labels"] == 1
    assert features.lengths == [9, 9]
    assert "labels" not in sentence_features([Example(("a plot",), None, "0")], tokenizer, 16)[0]


@pytest.mark.parametrize("length", [3, 65])
def test_a_length_that_does_not_fit_the_encoder(tokenizer, length):
    with pytest.raises(InputError, match=f"--max_seq_length {length}: this encoder takes 4 to 64 tokens"):
        sentence_features([Example(("a", "b"), 0, None)], tokenizer, length)


# --- metrics and submissions ---


def test_metrics_by_value(caplog):
    labels, predictions = np.array([1, 1, 0, 0, 1]), np.array([1, 0, 0, 1, 1])
    values = metrics.compute(("f1", "accuracy", "matthews"), labels, predictions)
    assert list(values) == ["f1", "accuracy", "matthews"]
    assert values["accuracy"] == 60
    assert values["f1"] == pytest.approx(100 * 2 / 3)
    assert values["matthews"] == pytest.approx(100 * (2 * 1 - 1 * 1) / 6)
    scores = np.array([1.0, 2.0, 3.0, 5.0])
    values = metrics.compute(("spearman", "pearson"), scores, np.array([1.0, 2.0, 4.0, 3.0]))
    assert values["spearman"] == pytest.approx(80)
    assert values["pearson"] == pytest.approx(100 * np.corrcoef(scores, [1, 2, 4, 3])[0, 1])


NAN = float("nan")


@pytest.mark.parametrize(
    ("labels", "predictions", "defined", "undefined"),
    [
        ([1.0, 2.0], [3.0, 3.0], {}, ["pearson", "spearman"]),
        ([2.0, 2.0], [1.0, 3.0], {}, ["pearson", "spearman"]),
        ([2.0], [1.0], {}, ["pearson", "spearman"]),
        ([1.0, 2.0, 3.0], [1.0, NAN, 3.0], {}, ["pearson", "spearman"]),
        ([1.0, 2.0, 3.0], [1.0, float("inf"), 3.0], {}, ["pearson", "spearman"]),
        ([0, 1], [0, 0], {"accuracy": 50, "f1": 0}, ["matthews"]),
        ([1, 1], [0, 1], {"accuracy": 50, "f1": 200 / 3}, ["matthews"]),
        ([0, 0], [0, 0], {"accuracy": 100}, ["f1", "matthews"]),
        ([0, 1], [metrics.NO_CLASS, 1], {}, ["accuracy", "f1", "matthews"]),
    ],
)
def test_a_score_that_is_not_defined_is_zero_with_one_warning(labels, predictions, defined, undefined, caplog, recwarn):
    caplog.set_level("WARNING", "asa")
    names = (*defined, *undefined)
    scores = metrics.compute(names, np.array(labels), np.array(predictions))
    assert scores == pytest.approx(defined | dict.fromkeys(undefined, 0.0))
    assert [record.getMessage().split(":")[0] for record in caplog.records] == [", ".join(undefined)]
    assert not recwarn.list


def test_a_row_with_a_logit_that_is_no_number_has_no_class(tmp_path):
    logits = [np.array(row) for row in ([0.5, 1.5], [NAN, 1.0], [3.0, float("inf")], [2.0, -1.0])]
    assert metrics.best_class(logits).tolist() == [1, metrics.NO_CLASS, metrics.NO_CLASS, 0]
    examples = [Example(("a",), None, None)] * 4
    for task, predictions in (("SST-2", metrics.best_class(logits)), ("STS-B", np.array([1.0, NAN, 2.0, NAN]))):
        with pytest.raises(InputError, match=r"x\.tsv: not written, .* is not a number in 2 places"):
            write_submission(tmp_path / "x.tsv", SENTENCE_TASKS[task], examples, predictions)
    assert not list(tmp_path.iterdir())


def test_a_figure_that_is_not_finite_is_null(tmp_path):
    write_json(tmp_path / "x.json", {"a": [NAN, 1.5], "b": {"c": float("-inf")}, "d": (1, "nan")})
    assert json.loads((tmp_path / "x.json").read_text()) == {"a": [None, 1.5], "b": {"c": None}, "d": [1, "nan"]}


def test_submission_format(tmp_path):
    examples = [Example(("a",), None, index) for index in ("4", "2", None)]
    write_submission(tmp_path / "QNLI.tsv", SENTENCE_TASKS["QNLI"], examples, np.array([1, 0, 1]))
    expected = "index\tprediction\n4\tnot_entailment\n2\tentailment\n2\tnot_entailment\n"
    assert (tmp_path / "QNLI.tsv").read_text() == expected
    write_submission(tmp_path / "STS-B.tsv", SENTENCE_TASKS["STS-B"], examples, np.array([-0.25, 2.5, 5.125]))
    assert (tmp_path / "STS-B.tsv").read_text() == "index\tprediction\n4\t0.000\n2\t2.500\n2\t5.000\n"


# --- the demo ---


def test_demo_text(tmp_path):
    demo.write_demo(tmp_path / "a")
    demo.write_demo(tmp_path / "b")
    task = SENTENCE_TASKS["DEMO"]
    for split, count in demo.ROWS.items():
        text = (tmp_path / "a" / f"{split}.tsv").read_text()
        assert text == (tmp_path / "b" / f"{split}.tsv").read_text()
        examples = read_file(task, tmp_path / "a" / f"{split}.tsv", labelled=split != "test")
        assert len(examples) == count
        if split != "test":
            holds = sum(demo.DAYS[example.label] in example.texts[0] for example in examples)
            assert holds == count * demo.SHORTCUT_HOLDS[split]
            assert sum(example.label for example in examples) == count / 2
    train = {text for text, _ in demo.make_rows("train", demo.ROWS["train"])}
    assert len(train & {text for text, _ in demo.make_rows("shifted", demo.ROWS["shifted"])}) < 10
