"""What the readers take of files that are not quite as the official ones, and whose rule is whose."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from script_runs import message, results_of, run_folder
from test_data import FORMATS, write
from test_evaluation import evaluate, predicted, saved, some_pairs  # noqa: F401 (a fixture)

import run_tok_clas
from data import cache, metrics
from data.conll import read_tagged
from data.examples import ChoiceExample, WordsExample
from data.features import choice_features, sentence_features, word_features
from data.predictions import read_predictions
from data.readers import Examples, read_file, read_set, task_folder, with_labels
from data.tasks import CHOICE_TASKS, SENTENCE_TASKS, TOKEN_TASKS

KNOWN = SENTENCE_TASKS | CHOICE_TASKS | TOKEN_TASKS
MNLI, SST = SENTENCE_TASKS["MNLI"], SENTENCE_TASKS["SST-2"]
PTB, WNUT, CONLL = (TOKEN_TASKS[name] for name in ("PTB", "WNUT-2017", "CoNLL-2003"))


def json_lines(path: Path, *rows: dict) -> Path:
    return write(path, *map(json.dumps, rows))


def texts(examples) -> list[tuple[str, ...]]:
    return [example.texts for example in examples]


def labels(examples) -> list:
    return [example.label for example in examples]


# --- a rule of one set is none of another ---

LITERALS = ["b'it's all the ref's fault'", "b'plain'", 'b"a plot"', "b'caf\\xc3\\xa9'"]


@pytest.mark.parametrize("name", sorted({*FORMATS} - {"PAWS-QQP"}))
def test_bytes_literals_are_of_paws_alone(name, tmp_path):
    header, row, expected, *_ = FORMATS[name]
    rows = [row.replace(expected[0], literal) for literal in LITERALS]
    examples = read_file(KNOWN[name], write(tmp_path / "train.tsv", *filter(None, [header]), *rows), True)
    assert [example.texts[0] for example in examples] == LITERALS
    header, row, expected, *_ = FORMATS["PAWS-QQP"]
    (example,) = read_file(KNOWN["PAWS-QQP"], write(tmp_path / "train.tsv", header, row), True)
    assert example.texts == expected


def test_blanks_are_of_dream_alone(tokenizer, tmp_path):
    swag = "sent1,sent2,ending0,ending1,label\na film,open log_file and _,warm,dull,0\n"
    (tmp_path / "train.csv").write_text(swag)
    question = {"question": "it is ___ .", "choice": ["warm", "dull"], "answer": "dull"}
    (tmp_path / "train.json").write_text(json.dumps([[["a film"], [question, question], "7"]]))
    json_lines(tmp_path / "train.jsonl", {"ctx": "a film", "endings": ["a_b", "dull"], "label": 1})
    expected = {
        "SWAG": ("train.csv", ["open log_file and _ warm", "open log_file and _ dull"]),
        "DREAM": ("train.json", ["it is warm .", "it is dull ."]),
        "HellaSWAG": ("train.jsonl", ["a_b", "dull"]),
    }
    for name, (file, answers) in expected.items():
        examples = read_file(KNOWN[name], tmp_path / file, True)
        features = choice_features(examples, tokenizer, 40)
        assert features[0]["input_ids"] == tokenizer(["a film"] * 2, answers)["input_ids"]
    # The form of a file follows from its suffix, whatever the task, and its rules with it.
    assert [example.cloze for example in read_file(KNOWN["SWAG"], tmp_path / "train.json", True)] == [True]


def test_where_a_document_begins_is_of_conll_2003_alone(tmp_path):
    path = write(tmp_path / "train.txt", "film\tO", "-DOCSTART-\tO", "weak\tO")
    assert [example.words for example in read_file(CONLL, path, True)] == [["film"], ["weak"]]
    words = ["film", "-DOCSTART-", "weak"]
    assert read_file(WNUT, path, True) == [WordsExample(words, [0, 0, 0])]
    assert read_file(WNUT, path, False) == [WordsExample([f"{word}\tO".split("\t")[0] for word in words], None)]
    (tmp_path / "PTB").mkdir()
    path.rename(tmp_path / "PTB" / "train.txt")
    task = with_labels(PTB, str(tmp_path))
    assert read_file(task, tmp_path / "PTB" / "train.txt", True) == [WordsExample(words, [0, 0, 0])]


def test_other_spellings_of_labels_are_of_their_set_alone(tmp_path):
    row = {"sentence1": "a film", "sentence2": "a plot", "label": "e"}
    path = json_lines(tmp_path / "train.jsonl", row)
    assert labels(read_file(KNOWN["ANLI"], path, True)) == [1]
    assert ": unknown label 'e'; RTE has" in message(read_file, KNOWN["RTE"], path, True)
    path = write(tmp_path / "train.txt", "film\tI-group", "weak\tI-group", "plot\tO")
    tags = [WNUT.labels.index(tag) for tag in ("I-group", "I-group", "O")]
    assert read_file(WNUT, path, True) == [WordsExample(["film", "weak", "plot"], tags)]  # not turned into BIO


# --- ten columns: CoNLL-X and CoNLL-U ---

CONLLU = """# newdoc id = 1
# text = it's a film ok now then so on and on
1-2\tit's\t_\t_\t_\t_\t_\t_\t_\t_
1\tit\tit\tPRON\tPRP\t_\t2\tnsubj\t_\t_
2\t's\tbe\tAUX\tVBZ\t_\t0\troot\t_\t_
2.1\tmade\tmake\tVERB\tVBN\t_\t_\t_\t2:x\t_
3\t#\t#\tSYM\t#\t_\t2\tobj\t_\t_

# sent_id = 2
1\tice cream\tcream\tNOUN\tNN\t_\t0\troot\t_\t_
"""


@pytest.mark.parametrize("end", ["", "\n# the end\n"])
def test_comments_ranges_and_empty_nodes_are_no_words(tmp_path, said, end):
    path = tmp_path / "train.txt"
    path.write_text(CONLLU + end)
    assert list(read_tagged(path, True)) == [
        (["it", "'s", "#"], ["PRON", "AUX", "SYM"], [4, 5, 7]),
        (["ice cream"], ["NOUN"], [10]),
    ]
    comments = 3 + bool(end)
    assert said() == [f"{path}: CoNLL-U, skipped: {comments} comment lines, 1 empty nodes, 1 multi-word ranges"]
    assert [words for words, _, _ in read_tagged(path, False)] == [["it", "'s", "#"], ["ice cream"]]
    task = dataclasses.replace(PTB, labels=("AUX", "NOUN", "PRON"))
    assert message(read_file, task, path, True).startswith(f"{path}, line 7: unknown tag 'SYM'; PTB has AUX")


def test_comments_before_a_sentence_are_no_words_elsewhere_either(tmp_path, said):
    """As in MultiCoNER, with as many columns as a word or with others; the word # may begin a sentence."""
    path = tmp_path / "train.conll"
    path.write_text("# id 1 domain=en\nBob _ _ B-PER\n# _ _ O\n\n# id\t2\n# more\nran _ _ O\n\n# _ _ O\n\n# _ _ B-X\n")
    expected = [
        (["Bob", "#"], ["B-PER", "O"], [2, 3]),
        (["ran"], ["O"], [7]),
        (["#"], ["O"], [9]),
        (["#"], ["B-X"], [11]),
    ]
    assert list(read_tagged(path, True)) == expected
    assert said() == [f"{path}: skipped: 3 comment lines"]
    assert [words for words, _, _ in read_tagged(path, False)] == [words for words, _, _ in expected]
    path.write_text("#\nhashtag\n\n#\n")  # words alone
    assert [words for words, _, _ in read_tagged(path, False)] == [["#", "hashtag"], ["#"]]


def test_where_no_word_has_a_tag_in_the_fourth_column_the_fifth_is_read(tmp_path, said):
    path = tmp_path / "train.txt"
    path.write_text(CONLLU.replace("PRON", "_").replace("AUX", "_").replace("SYM", "_").replace("NOUN", "_"))
    assert [tags for _, tags, _ in read_tagged(path, True)] == [["PRP", "VBZ", "#"], ["NN"]]
    assert said()[0] == f"{path}: column 4 (UPOS) is '_' throughout: the tags are read from column 5 (XPOS)"
    path.write_text(CONLLU.replace("AUX", "_"))
    with pytest.raises(ValueError, match=r"train\.txt, line 5: the row has no tag: column 4 \(UPOS\) is '_'"):
        list(read_tagged(path, True))
    path.write_text("1\tfilm" + "\t_" * 8)
    with pytest.raises(ValueError, match=r"train\.txt, line 1: the row has no tag: column 4 \(UPOS\) is '_'"):
        list(read_tagged(path, True))
    assert list(read_tagged(path, False)) == [(["film"], [], [1])]


@pytest.mark.parametrize("separator", ["\t", " "])
def test_a_hash_elsewhere_is_a_word(tmp_path, said, separator):
    rows = ["#film O", "# O", "a O", "#1 B-group", "", "# B-person"]
    path = write(tmp_path / "train.txt", *(row.replace(" ", separator) for row in rows))
    examples = read_file(WNUT, path, True)
    assert [example.words for example in examples] == [["#film", "#", "a", "#1"], ["#"]]
    assert [WNUT.labels[label] for example in examples for label in example.labels] == [
        "O", "O", "O", "B-group", "B-person",
    ]  # fmt: skip
    assert not said()
    path = write(tmp_path / "test.txt", "#film", "#", "", "#a")
    assert read_file(WNUT, path, False) == [WordsExample(["#film", "#"], None), WordsExample(["#a"], None)]
    # Ten columns that are none of a treebank: the first is the word.
    path = write(
        tmp_path / "train.txt", separator.join("# a b c d e f g h O".split()), separator.join(["a"] * 9 + ["O"])
    )
    assert read_file(WNUT, path, True) == [WordsExample(["#", "a"], [0, 0])]


# --- what editors and exports do ---

BLANK_ENDS = ["\n", "\n\n\n", "  \n", "\t\n", " \t \n\n", "\r\n", " "]


@pytest.mark.parametrize("blank", BLANK_ENDS)
def test_empty_lines_at_the_end_are_no_rows(blank, tmp_path):
    tsv, swag = "sentence\tlabel\na film\t1\n", "sent1,sent2,ending0,ending1,label\na,b,c,d,1\n"
    hella = json.dumps({"ctx": "a film", "endings": ["c", "d"], "label": 1}) + "\n"
    sst = json.dumps({"sentence": "a film", "label": "1"}) + "\n"
    contents = [("SST-2", "tsv", tsv), ("SST-2", "jsonl", sst), ("SWAG", "csv", swag), ("HellaSWAG", "jsonl", hella)]
    for task, suffix, content in contents:
        path = tmp_path / f"train.{suffix}"
        path.write_bytes((content + blank).encode())
        assert labels(read_file(KNOWN[task], path, True)) == [1]
        assert labels(read_file(KNOWN[task], path, False)) == [None]
        *_, row = lines = content.splitlines()
        path.write_bytes((content + blank.rstrip(" ") + "\n" + row + "\n").encode())
        # In the middle they are rows that lack everything.
        assert message(read_file, KNOWN[task], path, True).startswith(f"{path}, line {len(lines) + 1}: ")
    path = tmp_path / "train.txt"
    path.write_bytes(("film\tO\n" + blank).encode())
    assert read_file(WNUT, path, True) == [WordsExample(["film"], [0])]


def test_broken_rows_are_not_those_of_the_end(tmp_path, said):
    header, row, *_ = FORMATS["QQP"]
    path = write(tmp_path / "train.tsv", header, row, *[""] * 20)
    assert len(read_file(KNOWN["QQP"], path, True)) == 1
    assert not said()


@pytest.mark.parametrize(
    ("task", "row", "text", "label"),
    [
        ("SST-2", {"sentence": "a film", "label": 1}, ("a film",), 1),
        ("SST-2", {"sentence": "a film", "label": 1.0}, ("a film",), 1),
        ("SST-2", {"sentence": "a film", "label": "1.0"}, ("a film",), 1),
        ("SST-2", {"sentence": "a film", "label": True}, ("a film",), 1),
        ("QQP", {"question1": 7, "question2": 2.5, "is_duplicate": False}, ("7", "2.5"), 0),
        ("STS-B", {"sentence1": "a", "sentence2": "b", "score": 4.5}, ("a", "b"), 4.5),
        ("STS-B", {"sentence1": "a", "sentence2": "b", "score": 4}, ("a", "b"), 4.0),
        ("STS-B", {"sentence1": "a", "sentence2": "b", "score": "4.5"}, ("a", "b"), 4.5),
        ("ANLI", {"context": 1984, "hypothesis": "b", "label": "n"}, ("1984", "b"), 2),
        ("ANLI", {"premise": "a", "hypothesis": "b", "label": 0}, ("a", "b"), 1),  # as Hugging Face has it
        ("MNLI", {"premise": "a", "hypothesis": "b", "label": 2}, ("a", "b"), 0),
        ("MNLI", {"sentence1": "a", "sentence2": "b", "gold_label": 1.0}, ("a", "b"), 2),
        ("HANS", {"premise": "a", "hypothesis": "b", "label": 1}, ("a", "b"), 1),
        ("RTE", {"sentence1": "a", "sentence2": "b", "label": 1}, ("a", "b"), 1),
        ("WNLI", {"sentence1": "a", "sentence2": "b", "label": 1}, ("a", "b"), 1),
    ],
)
def test_numbers_in_json(task, row, text, label, tmp_path, said):
    (example,) = Examples(KNOWN[task], [json_lines(tmp_path / "x.jsonl", row)], True)
    assert (example.texts, example.label) == (text, label)
    named = not isinstance(row.get("label", row.get("gold_label", "")), str) and "0" not in KNOWN[task].labels
    order = ", ".join(f"{number} {name}" for number, name in enumerate(KNOWN[task].numbered))
    expected = f"{task}: 1 label read from numbers, in Hugging Face's order: {order}"
    assert said() == ([expected] if named else [])


@pytest.mark.parametrize(
    ("task", "row", "expected"),
    [
        ("SST-2", {"sentence": "a", "label": 2}, "unknown label '2'; SST-2 has 0, 1"),
        ("SST-2", {"sentence": "a", "label": 0.5}, "unknown label '0.5'; SST-2 has 0, 1"),
        ("SST-2", {"sentence": "a", "label": None}, "column 'label' must be text, not null"),
        ("SST-2", {"sentence": True, "label": 1}, "column 'sentence' must be text, not bool"),
        ("RTE", {"sentence1": "a", "sentence2": "b", "label": True}, "column 'label' must be text, not bool"),
        ("RTE", {"sentence1": "a", "sentence2": "b", "label": "1"}, "unknown label '1'; RTE has entailment"),
        ("STS-B", {"sentence1": "a", "sentence2": "b", "score": True}, "column 'score' must be text, not bool"),
        ("STS-B", {"sentence1": "a", "sentence2": "b", "score": 5.5}, "the score '5.5' is outside 0 to 5"),
        ("STS-B", {"sentence1": "a", "sentence2": "b", "score": "x"}, "the score 'x' is not a number"),
        ("HellaSWAG", {"ctx": "a", "endings": ["b", "c"], "label": 0.5}, "the label '0.5' is not among 0 to 1"),
        ("HellaSWAG", {"ctx": "a", "endings": ["b", False], "label": 0}, "each of 'endings' must be text, not bool"),
    ],
)
def test_what_is_no_label_and_no_text_in_json(task, row, expected, tmp_path):
    path = json_lines(tmp_path / "x.jsonl", row)
    assert message(read_file, KNOWN[task], path, True).startswith(f"{path}, line 1: {expected}")
    said = message(list, Examples(KNOWN[task], [path], True, evaluated=True))  # no more so where all of it is unknown
    assert said.startswith(f"{path}, line 1: {expected}")


def test_numbers_in_choices(tmp_path):
    path = json_lines(tmp_path / "x.jsonl", {"ctx": 1, "endings": [2, 3.5], "label": 1.0})
    assert read_file(KNOWN["HellaSWAG"], path, True) == [ChoiceExample("1", "_", ("2", "3.5"), 1, None, cloze=True)]
    (tmp_path / "x.json").write_text(json.dumps([[[1], [{"question": 2, "choice": [3, 4], "answer": 4}], 5]]))
    assert read_file(KNOWN["DREAM"], tmp_path / "x.json", True) == [ChoiceExample("1", "2", ("3", "4"), 1, "5/1")]
    path = write(tmp_path / "x.csv", "sent1,sent2,ending0,ending1,label", "a,b,c,d,1.0")
    assert labels(read_file(KNOWN["SWAG"], path, True)) == [1]


# --- rows without a gold label ---


def mnli_rows(*gold: str) -> list[str]:
    header, row, *_ = FORMATS["MNLI"]
    return [header, *(f"{row.rpartition(chr(9))[0]}\t{label}" for label in gold)]


def test_rows_without_a_gold_label_are_left_out_counted_and_reported(tmp_path, tokenizer, said):
    path = write(tmp_path / "train.tsv", *mnli_rows("-", "neutral", "-1", "entailment", "-"))
    for evaluated in (False, True):
        examples = Examples(MNLI, [path], True, evaluated)
        assert labels(examples) == [2, 1]
        assert said().pop() == f"{path}: 3 rows without a gold label are left out (lines 2, 4, 6)"
        report = sentence_features(examples, tokenizer, 16).report
        assert report == {"truncated_share": 0.0, "rows_without_gold_label": 3}
    assert labels(read_file(MNLI, path, False)) == [None] * 5  # of a test set nothing is left out
    write(path, *mnli_rows(*["-"] * 12, "neutral"))
    assert len(read_file(MNLI, path, True)) == 1
    assert (
        said().pop().endswith(": 12 rows without a gold label are left out (lines 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, ...)")
    )
    write(path, *mnli_rows("-", "-1"))
    assert message(read_file, MNLI, path, True) == f"{path}: none of the rows has a gold label"


@pytest.mark.parametrize("name", ["MNLI", "ANLI", "RTE", "QNLI", "WNLI", "HANS"])
@pytest.mark.parametrize("none", ["-", -1, -1.0, "-1", None])
def test_every_inference_task_may_lack_gold_labels(name, none, tmp_path):
    task = KNOWN[name]
    rows = [{column[0]: "a" for column in task.text} | {task.label[0]: label} for label in (none, task.labels[1])]
    assert labels(read_file(task, json_lines(tmp_path / "x.jsonl", *rows), True)) == [1]


def test_elsewhere_a_dash_is_no_label(tmp_path):
    path = write(tmp_path / "train.tsv", "sentence\tlabel", "a film\t-")
    assert message(read_file, SST, path, True) == f"{path}, line 2: unknown label '-'; SST-2 has 0, 1"
    path = json_lines(tmp_path / "x.jsonl", {"sentence1": "a", "sentence2": "b", "score": None})
    assert message(read_file, KNOWN["STS-B"], path, True).endswith("column 'score' must be text, not null")


# --- labels that the task lacks ---


def test_an_unknown_label_is_wrong_where_it_is_evaluated_and_an_error_in_training(tmp_path, tokenizer, said):
    path = write(tmp_path / "dev.tsv", "sentence\tlabel", "a film\t1", "a plot\t2", "fun\tx", "dull\t0", "warm\t2")
    assert message(list, Examples(SST, [path], True)) == f"{path}, line 3: unknown label '2'; SST-2 has 0, 1"
    assert not said()
    examples = Examples(SST, [path], True, evaluated=True)
    assert labels(examples) == [1, "2", "x", 0, "2"]
    assert said() == [
        f"{path}, line 3: the first of 3 rows (of 5) with a label that SST-2 does not have ('2', 'x'); such a row"
        " counts as wrong and gives no loss"
    ]
    assert examples.read() == list(examples)
    assert len(said()) == 1  # is not said again
    features = sentence_features(examples, tokenizer, 16)
    assert features.columns["labels"] == [1, -100, -100, 0, -100]
    assert features.report == {"truncated_share": 0.0, "rows_with_unknown_label": 3}


def test_a_set_without_a_known_label_is_another_ones(tmp_path):
    path = write(tmp_path / "dev.tsv", "index\tsentence1\tsentence2\tlabel", "0\ta\tb\t1", "0\ta\tb\t0")
    assert message(list, Examples(KNOWN["RTE"], [path], True, evaluated=True)) == (
        f"{path}, line 2: unknown label '1'; RTE has entailment, not_entailment; no label of this set is known: is it"
        " another task's?"
    )
    path = write(tmp_path / "dev.txt", "film\tNN", "weak\tJJ")
    assert message(list, Examples(WNUT, [path], True, evaluated=True)).startswith(f"{path}, line 1: unknown tag 'NN'")
    # One of several files may have none, as long as the set has.
    row = {"context": "a", "hypothesis": "b"}
    paths = [json_lines(tmp_path / f"{label}.jsonl", row | {"label": label}) for label in ("x", "e")]
    assert labels(Examples(KNOWN["ANLI"], paths, True, evaluated=True)) == ["x", 1]
    # An empty label is none, and a score is a number.
    path = write(tmp_path / "dev.tsv", "sentence\tlabel", "a film\t1", "a plot\t")
    said = message(list, Examples(SST, [path], True, evaluated=True))
    assert said == f"{path}, line 3: unknown label ''; SST-2 has 0, 1"
    rows = [{"sentence1": "a", "sentence2": "b", "score": score} for score in (1.5, "x")]
    path = json_lines(tmp_path / "x.jsonl", *rows)
    said = message(list, Examples(KNOWN["STS-B"], [path], True, evaluated=True))
    assert said == f"{path}, line 2: the score 'x' is not a number"


def test_an_unknown_tag_keeps_its_name_and_gives_no_loss(tmp_path, tokenizer, said):
    path = write(tmp_path / "dev.txt", "film\tO", "weak\tB-film", "", "music\tI-film", "fun\tB-group")
    group = WNUT.labels.index("B-group")
    examples = Examples(WNUT, [path], True, evaluated=True)
    assert labels_of(examples) == [[0, "B-film"], ["I-film", group]]
    assert said() == [
        f"{path}, line 2: the first of 2 words (of 4) with a label that WNUT-2017 does not have ('B-film', 'I-film');"
        " such a word counts as wrong and gives no loss"
    ]
    features = word_features(examples, tokenizer, 16)
    assert features.columns["labels"] == [[-100, 0, -100, -100], [-100, -100, *features.columns["labels"][1][2:]]]
    assert features.columns["labels"][1].count(group) == 1
    assert features.report["words_with_unknown_label"] == 2
    # IOB1 becomes BIO under the tag's own name.
    write(path, "film\tI-PER", "weak\tI-X", "dull\tI-X")
    per = CONLL.labels.index("B-PER")
    assert labels_of(Examples(CONLL, [path], True, evaluated=True)) == [[per, "B-X", "I-X"]]


def labels_of(examples) -> list[list]:
    return [example.labels for example in examples]


def test_scores_with_unknown_labels_by_value():
    gold, answers = [1, -100, 0, -100, 1], np.array([1, 1, 0, 0, 0])
    scores = metrics.compute(("accuracy", "f1", "matthews"), gold, answers)
    # For class 1: 1 right, 1 predicted wrongly (on a row of no known class), 1 not found.
    assert scores["accuracy"] == 40
    assert scores["f1"] == pytest.approx(100 * 2 / (2 + 1 + 1))
    # 2 right of 5; gold has 2, 1, 2 of (1, 0, the rest), the answers 2, 3, 0.
    covariance = 2 * 5 - (2 * 2 + 1 * 3 + 2 * 0)
    spread = (5**2 - (2**2 + 3**2)) * (5**2 - (2**2 + 1**2 + 2**2))
    assert scores["matthews"] == pytest.approx(100 * covariance / spread**0.5)
    groups = [("a",), ("a",), ("b",), ("b",), ("b",)]
    assert metrics.by_group(gold, answers, ("no", "yes"), groups) == {
        "no/accuracy": 100.0,
        "yes/accuracy": 50.0,
        "a/accuracy": 50.0,
        "b/accuracy": pytest.approx(100 / 3),
        "a/yes/accuracy": 100.0,
        "b/no/accuracy": 100.0,
        "b/yes/accuracy": 0.0,
    }
    tags = [["B-film", "I-film", "O", "B-group"]]
    scores = metrics.compute_words(WNUT.metrics, tags, [["O", "B-group", "O", "B-group"]])
    # Words: 1 right of 2 predicted and 3 to find. Entities: 1 right of 2 predicted and 2 to find.
    assert scores["token_f1"] == pytest.approx(100 * 2 / (2 + 3))
    assert scores["entity_f1"] == scores["entity_recall"] == scores["entity_precision"] == 50
    assert metrics.compute_words(("accuracy",), [["X", "NN"]], [["NN", "NN"]])["accuracy"] == 50


@pytest.mark.parametrize("cached_from", [0, 10**9])
def test_evaluation_of_sentences_with_unknown_labels(
    cached_from,
    evaluate,  # noqa: F811
    encoder_folder,
    tmp_path,
    monkeypatch,
    said,
):
    """Accuracy counts them as wrong, the loss leaves them out; from the token cache, too, they are told of once."""
    monkeypatch.setattr(cache, "CACHED_FROM", cached_from)
    pairs = some_pairs(12)
    words = predicted(encoder_folder, ("0", "1"), [(a,) for a, _ in pairs])
    gold = [word if row % 3 else "2" for row, word in enumerate(words)]
    path = write(
        tmp_path / "own.tsv", "sentence\tlabel", *(f"{a}\t{label}" for (a, _), label in zip(pairs, gold, strict=True))
    )
    known = [f"{a}\t{label}" for (a, _), label in zip(pairs, gold, strict=True) if label != "2"]
    checkpoint, _ = saved(encoder_folder, ("0", "1"), tmp_path)
    for number in range(2):
        flags = ("--eval_file", str(path), "--token_cache_dir", str(tmp_path / "cache"))
        record = evaluate("SST-2", checkpoint, *flags, folder=f"all{number}")
        assert record["metrics"] == {"accuracy": pytest.approx(100 * 8 / 12)}
        assert record["unseen"] == {"eval": {"truncated_share": 0.0, "rows_with_unknown_label": 4}}
        assert sum("SST-2 does not have ('2')" in line for line in said()) == number + 1
    rest = write(tmp_path / "known.tsv", "sentence\tlabel", *known)
    expected = evaluate("SST-2", checkpoint, "--eval_file", str(rest), folder="known")
    assert expected["metrics"] == {"accuracy": 100.0}
    assert record["eval_loss"] == pytest.approx(expected["eval_loss"], rel=1e-5)
    stored = read_predictions(next((tmp_path / "all0" / "predictions").iterdir()))
    assert stored["label"] == [-100 if label == "2" else int(label) for label in gold]


@pytest.mark.parametrize("cached_from", [0, 10**9])
def test_tagging_with_tags_that_training_lacks(cached_from, encoder_folder, tmp_path, monkeypatch, said):
    monkeypatch.setattr(cache, "CACHED_FROM", cached_from)
    folder = tmp_path / "data" / "ptb"
    write(folder / "train.txt", *["film\tNN", "warm\tJJ", ""] * 4)
    for name in ("dev.txt", "test.txt"):
        write(folder / name, *["film\tNN", "fun\tUH", "is\tVB", ""] * 3)
    flags = ("--do_train", "--do_eval", "--token_cache_dir", str(tmp_path / "cache"), "--num_train_epochs", "2")
    run = run_folder(run_tok_clas.main, tmp_path / "data", encoder_folder, tmp_path / "run", "PTB", *flags)
    record = results_of(run)
    assert record["unseen"]["eval"]["words_with_unknown_label"] == 6
    assert "words_with_unknown_label" not in record["unseen"]["train"]
    assert record["best"]["metrics"]["accuracy"] == pytest.approx(100 / 3)  # all of the rest
    assert record["best"]["eval_loss"] > 0
    stored = read_predictions(next((run / "predictions").iterdir()))
    assert stored["label"] == [[1, -100, -100]] * 3
    warned = [line for line in said() if "PTB does not have" in line]
    assert warned == [
        f"{folder / 'dev.txt'}, line 2: the first of 6 words (of 9) with a label that PTB does not have ('UH', 'VB');"
        " such a word counts as wrong and gives no loss"
    ]


def test_of_two_spellings_of_a_folder_the_official_one_is_taken(tmp_path):
    for name in ("CoLA", "cola"):
        (tmp_path / name).mkdir()
    assert task_folder(tmp_path, "CoLA") == tmp_path / "CoLA"
    (tmp_path / "CoLA").rmdir()
    assert task_folder(tmp_path, "CoLA") == tmp_path / "cola"


def test_the_diagnostic_set_is_found_beside_a_folder_that_is_a_link(tmp_path):
    (tmp_path / "elsewhere" / "MNLI").mkdir(parents=True)
    (tmp_path / "MNLI").symlink_to(tmp_path / "elsewhere" / "MNLI")
    path = write(tmp_path / "AX" / "AX.tsv", "index\tsentence1\tsentence2", "0\tA plot.\tThe plot.")
    found = read_set(KNOWN["MNLI"], KNOWN["MNLI"].test["AX"], tmp_path / "MNLI", labelled=False)
    assert found.paths == [path]
