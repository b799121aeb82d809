"""Multiple choice of the user's own: columns, answers, rows with different numbers of choices."""

import json

import numpy as np
import pytest
import torch
from conftest import relative_error
from own_tables import QUESTIONS, asked, table, task_and_sets
from script_runs import message, results_of
from transformers import AutoModelForMultipleChoice, AutoTokenizer

import run_multi_cho
from data.batches import ChoiceCollator, collate_parts, evaluation_batches
from data.cache import StoredFeatures, cached
from data.features import choice_features
from data.predictions import read_predictions
from models.asa import AsaModel
from training import accumulation

pytestmark = pytest.mark.usefixtures("offline")


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


LACKING_C = {"question": "2-1", "a": 2, "b": 1, "c": None, "answer": "B"}


@pytest.mark.parametrize("zero", [0, 0.0])
def test_a_number_zero_is_a_choice(zero, tmp_path):
    rows = [{"question": "1-1", "a": zero, "b": 1, "c": 2, "answer": "B"}, LACKING_C]
    _, examples = choice_examples(table(tmp_path / "x.jsonl", rows))
    assert [(row.choices, row.label) for row in examples] == [((str(zero), "1", "2"), 1), (("2", "1"), 1)]
    rows[0]["a"] = False
    said = message(choice_examples, table(tmp_path / "y.jsonl", rows))
    assert said.endswith("line 1: a choice must be text, not bool")


@pytest.mark.parametrize(
    ("columns", "guessed"),
    [
        ("sent1 sent2 ending0 ending1 label", ("sent1", "sent2", ("ending0", "ending1"), "label")),
        ("ctx endings label", ("ctx", None, ("endings",), "label")),
        ("goal sol1 sol2 label", None),
        ("article question options answer", ("article", "question", ("options",), "answer")),
        ("question_stem choices answerKey", (None, "question_stem", ("choices",), "answerKey")),
        ("context choices options label", None),
        ("n question a b c d answer", (None, "question", ("a", "b", "c", "d"), "answer")),
        ("context q a b c d label", ("context", None, ("a", "b", "c", "d"), "label")),
        ("question 1 2 3 4 label e", (None, "question", ("1", "2", "3", "4"), "label")),
        ("question 0 1 2 label", (None, "question", ("0", "1", "2"), "label")),
        ("question 0 1 a b label", None),
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
    alone = [{name: row[name] for name in ("question", "choices", "label")} for row in rows]
    _, examples = choice_examples(table(tmp_path / "alone.jsonl", alone))
    assert [(row.context, row.question) for row in examples] == [
        *(("", text) for text in questions[:2]),
        *((text, "_") for text in questions[2:]),
    ]
    assert all(row.cloze for row in examples)


@pytest.mark.parametrize(
    ("choices", "answers", "taken", "other"),
    [
        (["1", "2", "3"], ["2", "1"], "text", "number from 0"),
        (["a", "b", "c", "d"], [1, 2, 3], "number from 0", "number from 1"),
        (["a", "b"], ["A", "B"], "letter", None),
        (["a", "b"], [0, 1], "number from 0", None),
    ],
)
def test_answers_that_can_be_read_in_two_ways_are_warned_of(choices, answers, taken, other, tmp_path, caplog):
    rows = [{"question": "which?", "choices": choices, "answer": answer} for answer in answers]
    task, _ = choice_examples(table(tmp_path / "x.jsonl", rows))
    assert task.columns.answers == taken
    if other is None:
        assert "is taken for" not in caplog.text
    else:
        said = f"line 1: the answer is taken for the {taken} of a choice; as {other} it would be another choice"
        assert said in caplog.text


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"answer": "weak"},
            "line 3: the answer 'weak' is none of its 3 choices, which are called 'warm', 'dull', 'flat'",
        ),
        ({"answer": None}, "line 3: there is no answer in column 'answer'"),
        ({"choices": ["warm"]}, "line 3: at least two choices are expected, and it has 1"),
        ({"choices": "warm, dull"}, "line 3: there is no list of choices in column 'choices'"),
        ({"choices": ["warm", 7.5, True]}, "line 3: a choice must be text, not bool"),
        ({"question": None}, "line 3: column 'question' must be text, not null"),
    ],
)
def test_bad_choices_are_refused(changes, said, tmp_path, encoder_folder, refused):
    rows = asked("text")
    rows = [*rows[:2], rows[1] | changes, rows[3]]
    given = ("--do_train", "--train_file", table(tmp_path / "x.jsonl", rows))
    assert said in refused("own", *given, script=run_multi_cho, load_model_path=encoder_folder)


@pytest.mark.parametrize("split", ["dev", "test"])
@pytest.mark.parametrize(
    "choices", [["warm", "dull"], [{"text": "warm", "label": "c0"}, {"text": "dull", "label": None}]]
)
def test_choices_without_names_are_refused_where_answers_are_names(split, choices, tmp_path):
    train = table(tmp_path / "train.jsonl", asked("name", "objects"))
    rows = [*asked("name", "objects")[:1], asked("name")[1] | {"choices": choices}]
    file = table(tmp_path / "x.jsonl", rows)
    flags = ("--do_train", {"dev": "--do_eval", "test": "--do_test"}[split], "--train_file", train)
    _, sets = task_and_sets(*flags, f"--{split}_file", file, "--task_name", "films", script="run_multi_cho")
    examples = (sets.eval if split == "dev" else sets.test)["films"]
    said = "its choices have no names, and answers are names here: give each its 'label'"
    assert message(list, examples) == f"{file}, line 2: {said}"


def test_a_set_of_answers_of_which_none_is_a_choice_is_refused(tmp_path, encoder_folder, refused):
    train = table(tmp_path / "train.jsonl", asked("letter"))
    dev = table(tmp_path / "dev.jsonl", [row | {"answer": "Z"} for row in asked("letter")])
    flags = ("--do_train", "--do_eval", "--train_file", train, "--dev_file", dev)
    said = refused("own", *flags, script=run_multi_cho, load_model_path=encoder_folder)
    assert said == f"{dev}, line 1: the answer 'Z' is none of its choices; no answer of this set is"


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
def test_train_evaluate_and_test_on_own_choices(method, script, tmp_path, caplog):
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

    # As JSON, beside the table.
    given = ("--do_test", "--test_file", test, "--test_model_file", str(out), "--predictions_format", "jsonl")
    assert script(run_multi_cho, *given, task_name="films", max_train_steps=None) == 0
    found = [json.loads(line) for line in (out / "films.jsonl").read_text().splitlines()]
    assert [row["index"] for row in found] == ["q0", "q1", "q2", "q3"]
    for row, line in zip(found, lines[1:], strict=True):
        assert row["probabilities"] == pytest.approx([float(cell) for cell in line[2:] if cell], abs=1e-5)
        assert row["choices"] == list(map(str, range(len(row["probabilities"]))))  # no answers say another name
        assert row["prediction"] == str("ABCD".index(line[1]))

    # An answer that is no choice counts as wrong, and gives no loss: it is that of the other rows.
    wrong = asked("letter")[0] | {"answer": "Q"}
    losses = []
    for name, rows, score in (("three", asked("letter")[1:], 100), ("wrong", [wrong, *asked("letter")[1:]], 75)):
        file = table(tmp_path / f"{name}.jsonl", rows)
        given = ("--do_eval", "--dev_file", file, "--test_model_file", str(out))
        assert script(run_multi_cho, *given, output_dir=tmp_path / name, max_train_steps=None) == 0
        record = json.loads((tmp_path / name / "evaluation.json").read_text())
        losses.append(record["eval_loss"])
        assert record["eval_score"] == score
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert record["unseen"]["eval"]["rows_with_unknown_label"] == 1
    assert read_predictions(tmp_path / "wrong" / "predictions" / "wrong.parquet")["label"] == [-100, 1, 3, 0]
    assert (
        f"{file}, line 1: the only row (of 4) with an answer that is none of its choices ('Q'); such a row counts as"
        " wrong and gives no loss" in caplog.text
    )


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
