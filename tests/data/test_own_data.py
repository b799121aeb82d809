"""Text of the user's own with classes or numbers: formats, guessed columns, labels, and what is refused."""

from pathlib import Path

import datasets
import pytest
from own_tables import rows_of_films, table, task_and_sets
from script_runs import message

import run_sent_clas

pytestmark = pytest.mark.usefixtures("offline")


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


@pytest.mark.parametrize(
    ("columns", "index"),
    [("ID", "ID"), ("Guid Idx", "Idx"), ("pairid", "pairid"), ("ID id", "id"), ("name", None), ("uid id", "id")],
)
def test_rows_are_called_by_the_column_of_ids_in_any_case(columns, index, tmp_path):
    rows = [
        {name: f"{name}{n}" for name in columns.split()} | {"text": row["text"], "label": row["label"]}
        for n, row in enumerate(rows_of_films(2))
    ]
    _, sets = task_and_sets("--do_train", "--train_file", table(tmp_path / "x.csv", rows))
    assert [row.index for row in sets.train] == [index and f"{index}{n}" for n in range(2)]


def test_an_empty_id_is_none(tmp_path):
    rows = [{"id": ("", "r1")[n], "idx": f"{n}", "text": "a film", "label": n} for n in range(2)]
    _, sets = task_and_sets("--do_train", "--train_file", table(tmp_path / "x.csv", rows))
    assert [row.index for row in sets.train] == ["0", "r1"]


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
        ([0.5, 2.0, -1.0], ("-1", "0.5", "2")),
        (["1.5", "1.0", "1"], ("1", "1.5")),
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


def test_a_class_beyond_the_names_of_a_parquet_file_is_refused(tmp_path):
    from pyarrow import parquet

    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["bad", "good"])}
    )
    path = table(tmp_path / "x.parquet", [{"text": "a film", "label": 1}] * 2, features)
    rows = parquet.read_table(path)
    label = rows.schema.get_field_index("label")
    parquet.write_table(rows.set_column(label, rows.schema.field(label), [[1, 2]]), path)
    _, sets = task_and_sets("--do_train", "--train_file", path)
    assert message(lambda: list(sets.train)) == (f"{path}, row 2: 'label' has the class 2, of 2 classes from 0")


def test_a_class_may_be_called_minus_one(tmp_path):
    """In a Parquet file; the number -1 in place of the number of a class is still no label."""
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["-1", "0", "1"])}
    )
    rows = [{"text": f"film {n}", "label": label} for n, label in enumerate((0, 1, 2, -1, 0))]
    task, sets = task_and_sets("--do_train", "--train_file", table(tmp_path / "x.parquet", rows, features))
    assert task.labels == ("-1", "0", "1")
    assert [(row.texts[0], row.label) for row in sets.train] == [
        *(("film 0", 0), ("film 1", 1), ("film 2", 2), ("film 4", 0))
    ]
    assert sets.train.report == {"rows_without_gold_label": 1}


@pytest.mark.parametrize(
    ("rows", "flags", "said"),
    [
        ([("a", "x"), ("b", "")], "", "x.csv, line 3: the label in column 'label' is empty"),
        ([("a", "x"), ("b", "x")], "", "x.csv: column 'label' has the label 'x' in every row: at least two labels"),
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
        ("x.csv", "text,label\na,1\nb\n", "x.csv, line 3: 1 column where 2 are expected"),
        ("x.csv", "text,label\n", "x.csv: the file has no rows"),
        ("x.csv", "", "x.csv: the file has no rows"),
        ("x.csv", "\ntext,label\na,1\n", "x.csv, line 1: the header is empty: it must name the columns"),
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
        (["--train_file", "mine/metrics.csv"], "own-metrics"),
        (["--train_file", "mine/evaluation-2.csv"], "own-evaluation-2"),
        (["--train_file", "mine/train.csv", "--task_name", "Films.2"], "Films.2"),
    ],
)
def test_own_data_are_called_after_their_file_or_folder(flags, name, tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    own = ("metrics", "evaluation-2", "train", "films", "films_train")
    for file in (*(f"mine/{name}.csv" for name in own), "sst-2/train.csv"):
        table(tmp_path / file, rows_of_films(4))
    task, _ = task_and_sets("--do_train", *flags)
    assert task.name == name
    assert (f"these data are called {name} (" in caplog.text) == ("--task_name" not in flags)


def test_a_column_that_is_there_twice_is_refused(tmp_path):
    import pyarrow
    from pyarrow import parquet

    columns = [pyarrow.array(values) for values in (["a film"], ["a plot"], [1])]
    parquet.write_table(pyarrow.Table.from_arrays(columns, ["text", "text", "label"]), tmp_path / "x.parquet")
    said = message(task_and_sets, "--do_train", "--train_file", str(tmp_path / "x.parquet"))
    assert said == f"{tmp_path / 'x.parquet'}: it has the column 'text' twice: rename or remove one"


def test_the_label_is_not_a_text_too(tmp_path):
    file = table(tmp_path / "x.csv", rows_of_films(4))
    flags = ("--text_columns", "text,label", "--label_column", "label")
    said = message(task_and_sets, "--do_train", "--train_file", file, *flags)
    assert said == "--label_column label: it is one of --text_columns too: give another"
    said = message(task_and_sets, "--do_train", "--train_file", file, "--metric", "spearman")
    assert said.endswith("these data have classes; choose one of accuracy, f1, macro_f1, matthews")
