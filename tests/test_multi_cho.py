"""Multiple choice: readers, pairs, truncation, batches of choices, predictions, and the script as a whole."""

import csv
import dataclasses
import json
from argparse import Namespace

import numpy as np
import pytest
import torch
from script_runs import (
    REAL_DATA,
    check_saved_checkpoint,
    message,
    needs_real_data,
    results_of,
    run_folder,
)
from transformers import AutoTokenizer

from data.batches import ChoiceCollator
from data.examples import ChoiceExample, read_choices
from data.features import answered, choice_features
from data.readers import read_file, read_splits
from data.submission import write_choices
from data.tasks import CHOICE_TASKS
from run_multi_cho import main

DREAM, SWAG, HELLASWAG = (CHOICE_TASKS[name] for name in ("DREAM", "SWAG", "HellaSWAG"))
FILMS = ["the film", "the music", "the script"]


def question(text: str, answer: str = FILMS[0]) -> dict:
    return {"question": text, "choice": FILMS, "answer": answer}


DIALOGUES = [
    [["M: is it good?", "W: the film is good."], [question("good?"), question("dull?", FILMS[1])], "3-1"],
    [["W: the music was flat."], [question("it is ____ .", FILMS[1])], "3-2"],
    [["M: sharp script, weak film.", "W: in the end it is slow."], [question("weak?", FILMS[2])], "3-4"],
]


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sets")
    (folder / "dream").mkdir()
    for name in ("train", "dev", "test"):
        (folder / "dream" / f"{name}.json").write_text(json.dumps(DIALOGUES))
    (folder / "Swag").mkdir()
    for name in ("train", "val", "test"):
        write_swag(folder / "Swag" / f"{name}.csv", labelled=name != "test")
    (folder / "HELLASWAG").mkdir()
    for name in ("train", "val", "test"):
        rows = [hellaswag_row(number) for number in range(4)]
        if name == "test":
            rows = [{key: value for key, value in row.items() if key != "label"} for row in rows]
        lines = (json.dumps(row) + "\n" for row in rows)
        (folder / "HELLASWAG" / f"hellaswag_{name}.jsonl").write_text("".join(lines))
    return folder


def write_swag(path, labelled: bool) -> None:
    with open(path, "w", newline="") as file:
        header = ["", "video-id", "fold-ind", "startphrase", "sent1", "sent2", "gold-source"]
        writer = csv.writer(file)
        writer.writerow(header + [f"ending{n}" for n in range(4)] + ["label"] * labelled)
        for row in range(3):
            writer.writerow(
                [row, "v", f"{70 + row}", "x", 'the "great" film, a drama', "the cast", "gold"]
                + [f"is {word}" for word in ("great", "dull", "fine", "weak")]
                + [str(row)] * labelled
            )


def hellaswag_row(number: int) -> dict:
    return {
        "ind": 40 + number,
        "ctx": "the film is slow and the music",
        "ctx_a": "the film is slow",
        "ctx_b": "and the music",
        "label": number,
        "endings": ["is flat.", "is warm.", "was lovely.", "was ugly."],
    }


@pytest.fixture(scope="module")
def tokenizer(encoder_folder):
    return AutoTokenizer.from_pretrained(encoder_folder)


# --- readers ---


@pytest.mark.parametrize(("questions", "indices"), [("first", "3-1/1 3-2/1 3-4/1"), ("all", "3-1/1 3-1/2 3-2/1 3-4/1")])
def test_dream_counts_the_first_or_all_questions(data_dir, caplog, questions, indices):
    caplog.set_level("INFO", "asa")
    task = dataclasses.replace(DREAM, questions=questions)
    examples = read_choices(task, data_dir / "dream" / "train.json", True)
    assert [example.index for example in examples] == indices.split()
    assert examples[0] == ChoiceExample("M: is it good? W: the film is good.", "good?", tuple(FILMS), 0, "3-1/1")
    assert f"{len(examples)} of 4 questions" in caplog.text


@needs_real_data
@pytest.mark.parametrize(("questions", "counts"), [("first", (3869, 1288, 1287)), ("all", (6116, 2040, 2041))])
def test_dream_has_the_published_counts(questions, counts):
    args = Namespace(data_dir=REAL_DATA, do_train=True, do_eval=True, do_test=True, eval_on="dev", eval_file=None)
    splits = read_splits(dataclasses.replace(DREAM, questions=questions), args)
    assert tuple(len(examples) for examples in splits.primary().values()) == counts


def test_swag_has_its_own_columns(data_dir):
    args = Namespace(data_dir=data_dir, do_train=False, do_eval=True, do_test=True, eval_on="dev", eval_file=None)
    splits = read_splits(SWAG, args)
    endings = ("is great", "is dull", "is fine", "is weak")
    assert splits.eval["SWAG"][1] == ChoiceExample('the "great" film, a drama', "the cast", endings, 1, "71")
    assert [example.label for example in splits.test["SWAG"]] == [None] * 3


def test_a_quoted_line_break_is_part_of_the_text(tmp_path):
    path = tmp_path / "val.csv"
    path.write_text('sent1,sent2,ending0,ending1,label\n"a film\nin warm","it, is",good,bad,1\nfine,it,is,was,2\n')
    assert message(read_file, SWAG, path, True) == f"{path}, line 4: the label '2' is not among 0 to 1"
    path.write_text('sent1,sent2,ending0,ending1,label\n"a film\nin warm","it, is",good,bad,1\n')
    assert read_file(SWAG, path, True) == [ChoiceExample("a film\nin warm", "it, is", ("good", "bad"), 1, None)]


@pytest.mark.parametrize("without", ["ctx", "ctx_a"])
def test_hellaswag_context_whole_or_in_halves(tmp_path, without):
    row = hellaswag_row(2)
    path = tmp_path / "hellaswag_val.jsonl"
    path.write_text(json.dumps({key: value for key, value in row.items() if key != without}) + "\n")
    (example,) = read_file(HELLASWAG, path, True)
    assert example == ChoiceExample(row["ctx"], "_", tuple(row["endings"]), 2, "42", cloze=True)


# --- pairs ---


@pytest.mark.parametrize(
    ("text", "corrected", "release"),
    [
        ("is it good?", r"is it good? a\1", r"is it good? a\1"),
        ("it is _ .", r"it is a\1 .", r"it is a\1 ."),
        ("_", r"a\1", r"a\1"),
        ("it ___ so.", r"it a\1 so.", r"it a\1a\1a\1 so."),
    ],
)
def test_the_choice_follows_the_question_or_fills_the_blank_of_a_cloze(tokenizer, text, corrected, release):
    plain = choice_features([ChoiceExample("the plot", text, (r"a\1", "b"), None, None)], tokenizer, 40)
    assert plain[0]["input_ids"][0] == tokenizer("the plot", rf"{text} a\1")["input_ids"]
    for protocol, expected in (("corrected", corrected), ("release", release)):
        blank = {"corrected": "_+", "release": "_"}[protocol]
        assert answered(text, r"a\1", blank) == expected
        example = ChoiceExample("the plot", text, (r"a\1", "b"), None, None, cloze=True)
        features = choice_features([example], tokenizer, 40, protocol=protocol)
        assert features[0]["input_ids"][0] == tokenizer("the plot", expected)["input_ids"]


def test_truncation_is_counted_by_examples_and_cuts_what_is_asked(tokenizer):
    answer = "is it a warm film ?"  # 6 tokens
    examples = [ChoiceExample("the " * words, answer, ("a", "a b"), 0, None) for words in (3, 8, 9, 12)]
    # [CLS] context [SEP] question choice [SEP]: the longer pair has 3 + 8 + words tokens
    lengths = {n: choice_features(examples, tokenizer, n) for n in (20, 19, 14, 13)}
    assert [features.report["truncated_share"] for features in lengths.values()] == [0.25, 0.5, 0.75, 1.0]
    assert choice_features(examples, tokenizer, 40).report == {"truncated_share": 0.0}
    assert [lengths[20].lengths, lengths[14].lengths] == [[14, 19, 20, 20], [14] * 4]

    cut = {
        way: choice_features(examples, tokenizer, 14, way)[3]["input_ids"][1] for way in ("longest_first", "only_first")
    }
    the, separator = tokenizer.convert_tokens_to_ids(["the", "[SEP]"])
    assert [ids.count(the) for ids in cut.values()] == [6, 3]
    whole = tokenizer(f"{answer} a b", add_special_tokens=False)["input_ids"]
    assert cut["only_first"][5:] == [*whole, separator]
    assert cut["longest_first"].count(separator) == 2


def test_no_room_for_the_context_is_one_sentence(tokenizer):
    example = ChoiceExample("the film", "is it a warm film ?", ("a", "a b"), 0, None)
    assert message(choice_features, [example], tokenizer, 10, "only_first").startswith(
        "--truncation only_first: with --max_seq_length 10 a question with its choice leaves no room"
    )
    assert message(choice_features, [example], tokenizer, 65).startswith(
        "--max_seq_length 65: this encoder takes 4 to 64"
    )


@pytest.mark.parametrize("labelled", [True, False])
@pytest.mark.parametrize("examples", [1, 3])
def test_batches_of_choices(tokenizer, labelled, examples):
    texts = ["a film", "the music was slow", "fun"][:examples]
    rows = [ChoiceExample(text, "_", ("good", "bad bad", "dull"), 2 if labelled else None, None) for text in texts]
    features = choice_features(rows, tokenizer, 40)
    for padding, width in (("longest", max(features.lengths)), ("max_length", 40)):
        batch = ChoiceCollator(tokenizer, padding=padding, max_length=40)([features[row] for row in range(examples)])
        assert batch["input_ids"].shape == (examples, 3, width)
        assert batch["attention_mask"].sum(-1).amax(-1).tolist() == features.lengths
        assert ("labels" in batch) == labelled
        if labelled:
            assert torch.equal(batch["labels"], torch.full((examples,), 2))


def test_predictions_file(tmp_path):
    rows = [ChoiceExample("", "", ("a", "b", "c"), None, index) for index in ("3-1/1", None)]
    write_choices(tmp_path / "x.tsv", rows, np.array([[0.5, -1.25, 0.25], [-3.0, -2.0, 1e-3]]))
    assert (tmp_path / "x.tsv").read_text() == (
        "index\tprediction\tscore0\tscore1\tscore2\n3-1/1\t0\t0.5\t-1.25\t0.25\n1\t2\t-3\t-2\t0.001\n"
    )


# --- the script ---


def test_what_a_choice_is_made_of_follows_from_the_flags(data_dir, encoder_folder, tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr("data.features.choice_features", lambda rows, tokenizer, **settings: made.append(settings))
    monkeypatch.setattr("training.run.execute", lambda *_: None)
    flags = ("--do_train", "--truncation", "only_first", "--protocol", "release", "--max_seq_length", "30")
    run_folder(main, data_dir, encoder_folder, tmp_path / "run", "DREAM", *flags)
    assert made[0] == {"max_seq_length": 30, "truncation": "only_first", "protocol": "release"}


@pytest.mark.parametrize(
    ("task", "flags"),
    [
        ("dream", ("--dream_questions", "all")),
        ("DREAM", ("--protocol", "release", "--eval_on", "test")),
        ("SWAG", ("--method", "naive", "--gradient_accumulation_steps", "2")),
        ("hellaswag", ("--truncation", "only_first", "--group_by_length")),
    ],
)
def test_script_trains_evaluates_and_tests(data_dir, encoder_folder, tmp_path, task, flags):
    ways = ("--do_train", "--do_eval", "--do_test")
    folder = run_folder(main, data_dir, encoder_folder, tmp_path / "run", task, *ways, *flags)
    results = results_of(folder)
    name = results["args"]["task_name"]
    examples = {"DREAM": 4 if "all" in flags else 3, "SWAG": 3, "HellaSWAG": 4}[name]
    assert results["examples"] == {"train": examples, "eval": examples, "test": examples}
    assert results["unseen"] == {split: {"truncated_share": 0.0} for split in ("train", "eval", "test")}
    best = results["best"]
    assert (folder / "eval_results.txt").read_text() == (
        f"Epoch 0: global step = {(examples + 1) // 2} | loss = {best['train_loss']:.3f}"
        f" | eval score = {best['eval_score']:.2f} | eval loss = {best['eval_loss']:.3f}\n"
    )

    header, *lines = [line.split("\t") for line in (folder / f"{name}.tsv").read_text().splitlines()]
    choices = 3 if name == "DREAM" else 4
    assert header == ["index", "prediction", *(f"score{choice}" for choice in range(choices))]
    assert len(lines) == examples
    assert all(int(chosen) == np.argmax([float(score) for score in scores]) for _, chosen, *scores in lines)
    # With the order of the file: evaluation sorts its rows by length.
    if name == "DREAM":
        answers = [0, 1, 1, 2] if "all" in flags else [0, 1, 2]
        right = [int(line[1]) == answer for line, answer in zip(lines, answers, strict=True)]
        assert results["best"]["eval_score"] == pytest.approx(100 * sum(right) / len(right))


def test_a_saved_checkpoint_gives_the_same_scores(data_dir, encoder_folder, tmp_path):
    trained = run_folder(main, data_dir, encoder_folder, tmp_path / "run", "HellaSWAG", "--do_train", "--do_eval")
    check_saved_checkpoint(main, data_dir, encoder_folder, trained, tmp_path, "HellaSWAG")


def test_defaults_are_those_of_the_release(data_dir, encoder_folder, tmp_path, caplog):
    caplog.set_level("INFO", "asa")
    settings = ["--do_train", "--task_name", "SWAG", "--max_train_steps", "1", "--max_seq_length", "12", "--no_cuda"]
    places = ["--data_dir", str(data_dir), "--load_model_path", encoder_folder, "--output_dir", str(tmp_path / "run")]
    main([*settings, *places])
    expected = {"train_batch_size": 16, "eval_batch_size": 64, "learning_rate": 1e-5, "warmup_proportion": 0.06}
    expected |= {"weight_decay": 0.0, "dream_questions": "first", "truncation": "longest_first", "eval_on": "dev"}
    results = results_of(tmp_path / "run")
    assert {name: results["args"][name] for name in expected} == expected
    assert results["unseen"] == {"train": {"truncated_share": 1.0}}
    assert "train: truncated share 1.0" in caplog.text


def test_dream_questions_are_dreams(data_dir, encoder_folder, tmp_path):
    flags = ["--task_name", "SWAG", "--do_train", "--dream_questions", "all", "--output_dir", str(tmp_path / "run")]
    said = message(main, [*flags, "--load_model_path", encoder_folder, "--data_dir", str(data_dir)])
    assert said == "--dream_questions all: only DREAM has several questions to a dialogue"
    assert not (tmp_path / "run").exists()
