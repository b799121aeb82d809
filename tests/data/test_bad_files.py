"""Data files through the scripts' command lines: what cannot be read is one sentence with file and line."""

import json
import re
from pathlib import Path

import pytest
from script_runs import SCRIPTS, results_of, run_folder

from data.readers import read_file
from data.tasks import CHOICE_TASKS, SENTENCE_TASKS, TOKEN_TASKS

KNOWN = SENTENCE_TASKS | CHOICE_TASKS | TOKEN_TASKS

SST = "sentence\tlabel\n"
STS = "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore\n"
RTE = "index\tsentence1\tsentence2\tlabel\n"
PAWS = "id\tsentence1\tsentence2\tlabel\n"
QQP = "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n"
SWAG = "sent1,sent2,ending0,ending1,label\n"
ANLI = {"context": "a film", "hypothesis": "the plot", "label": "e"}
HELLA = {"ctx": "a film", "endings": ["good", "dull"], "label": 1}
QUESTION = {"question": "b", "choice": ["c", "d"], "answer": "d"}
TREEBANK_ROW = "1\tfilm\t_\tNN" + "\t_" * 6 + "\n"
UTF16 = "sentence\tlabel\na film\t1\n".encode("utf-16")
PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"
LONG = 10_000_000  # characters


def dream(*turns, question=None, name="3-1", **changes) -> str:
    """A DREAM file of one dialogue, with changes to its question."""
    return json.dumps([[list(turns) or ["a"], [QUESTION | changes if question is None else question], name]])


def rows(row: dict, **changes) -> str:
    """A JSON-lines file of one row; a change to `...` takes the column out."""
    return json.dumps({key: value for key, value in (row | changes).items() if value is not ...}) + "\n"


# (task, content of its training file, what the sentence says after the file's name)
BAD_FILES = [
    # tab-separated
    ("SST-2", "", ": the file has no rows"),
    ("SST-2", SST, ": the file has no rows"),
    ("SST-2", SST + "a plot\t1\na pl", ", line 3: 1 column where 2 are expected"),
    ("SST-2", SST + "a plot\t1\n\na film\t0\n", ", line 3: 1 column where 2 are expected"),
    ("SST-2", SST + "\n \n\t\n", ": the file has no rows"),
    ("SST-2", SST + "a plot\t1\t\n", ", line 2: 3 columns where 2 are expected"),
    ("SST-2", "text\tlabel\na plot\t1\n", ", line 2: there is no column 'sentence'"),
    ("SST-2", "sentence\na plot\n", ", line 2: there is no column 'label'"),
    ("SST-2", "label\tlabel\n1\t1\n", ", line 1: the header names the column 'label' twice"),
    ("SST-2", SST + "a plot\t2\n", ", line 2: unknown label '2'; SST-2 has 0, 1"),
    ("SST-2", SST + "a plot\t\n", ", line 2: unknown label ''; SST-2 has 0, 1"),
    ("SST-2", SST + "a plot\t" + "x" * LONG, r", line 2: unknown label 'x{60}\.\.\.'; SST-2 has 0, 1"),
    ("SST-2", "x" * LONG, ": the file has no rows"),
    ("SST-2", SST + "x" * LONG, ", line 2: 1 column where 2 are expected"),
    ("SST-2", SST + "a\0plot\t1\n", r", line 2: the line has a NUL byte; is this a text file\?"),
    ("SST-2", b"\0" * 100, r", line 1: the line has a NUL byte; is this a text file\?"),
    ("SST-2", "sentence\tlabel\ra plot\t1\r", ", line 1: .* carriage returns .*: convert it"),
    ("SST-2", SST.encode() + b"caf\xe9\t1\n", r", line 2: not valid UTF-8 \(.*\); save the file as UTF-8"),
    ("SST-2", SST.encode() + b"a plot\t1\n" * 5000 + b"a \xff plot\t1\n", ", line 5002: not valid UTF-8 "),
    ("SST-2", UTF16, r", line 1: not valid UTF-8 \(it looks like UTF-16\); save the file as UTF-8"),
    ("SST-2", PNG, r", line 1: not valid UTF-8 \(.*\); save the file as UTF-8"),
    ("RTE", RTE + "0\ta\tb\t1\n", ", line 2: unknown label '1'; RTE has entailment, not_entailment"),
    ("CoLA", "a plot\n", ", line 1: 1 column where 4 are expected"),
    ("STS-B", STS + "\t" * 9 + "x\n", ", line 2: the score 'x' is not a number"),
    ("STS-B", STS + "\t" * 9 + "nan\n", ", line 2: the score 'nan' is outside 0 to 5"),
    ("STS-B", STS + "\t" * 9 + "5.5\n", ", line 2: the score '5.5' is outside 0 to 5"),
    ("QQP", QQP + "6\t1\n" * 11, ", line 12: 2 columns where 6 are expected"),
    ("PAWS-QQP", PAWS + "1\tb'\\xff'\tb\t0\n", r", line 2: \"b'\\\\xff'\" is neither text nor a Python bytes literal"),
    ("PAWS-QQP", PAWS + "1\tb'a', b'b'\tb\t0\n", r", line 2: \"b'a', b'b'\" is neither text nor a Python bytes"),
    ("PAWS-QQP", PAWS + f"1\tb'a'{'-' * 100_000}b'b'\tb\t0\n", ", line 2: .* is neither text nor a Python bytes"),
    # a JSON object a line
    ("ANLI", "{", ", line 1: an object over several lines; one per line is expected"),
    ("ANLI", rows(ANLI)[:30], ", line 1: not valid JSON"),
    ("ANLI", rows(ANLI) + "\n" + rows(ANLI), ", line 2: not valid JSON"),
    ("ANLI", "[]", ", line 1: a JSON object is expected, not list"),
    ("ANLI", "[" * 100_000, ", line 1: .*JSON"),
    ("ANLI", rows(ANLI, context=True), ", line 1: column 'context' must be text, not bool"),
    ("ANLI", rows(ANLI, context=float("nan")), ", line 1: column 'context' must be text, not nan .a missing value"),
    ("ANLI", rows(ANLI, label=3), ", line 1: unknown label '3'; ANLI has contradiction, entailment, neutral"),
    ("ANLI", rows(ANLI, label="-") * 2, ": none of the rows has a gold label"),
    ("ANLI", rows(ANLI, hypothesis=...), ", line 1: there is no column 'hypothesis' or 'sentence2'"),
    ("ANLI", rows(ANLI, label=...), ", line 1: there is no column 'label'"),
    ("ANLI", rows(ANLI, label="x"), ", line 1: unknown label 'x'; ANLI has contradiction, entailment, neutral"),
    ("ANLI", rows(ANLI, uid="\ud800"), r", line 1: column 'uid' holds half a character \(a lone surrogate\)"),
    ("HellaSWAG", "[1]\n", ", line 1: a JSON object is expected, not list"),
    ("HellaSWAG", rows(HELLA, endings="b"), ", line 1: .endings. is one text where a list of texts is expected"),
    ("HellaSWAG", rows(HELLA, endings=["a", None]), ", line 1: each of 'endings' must be text, not null"),
    ("HellaSWAG", rows(HELLA, endings=[]), ", line 1: there are no choices"),
    ("HellaSWAG", rows(HELLA, label=...), ", line 1: there is no column 'label'"),
    ("HellaSWAG", rows(HELLA, label=True), ", line 1: the label 'True' is not among 0 to 1"),
    ("HellaSWAG", rows(HELLA, label=2), ", line 1: the label '2' is not among 0 to 1"),
    ("HellaSWAG", rows(HELLA, ctx=...), ", line 1: there is no column 'ctx'"),
    ("HellaSWAG", rows(HELLA) + rows(HELLA, endings=["a", "b", "c"]), ", line 2: 3 choices where 2 are expected"),
    ("HellaSWAG", b'{"ctx": "\xff"}', r", line 1: not valid UTF-8 \(.*\); save the file as UTF-8"),
    # a JSON document
    ("DREAM", "", ", line 1: not valid JSON"),
    ("DREAM", "[", ", line 1: not valid JSON"),
    ("DREAM", dream()[:40], ", line 1: not valid JSON"),
    ("DREAM", "[]", ": the file has no rows"),
    ("DREAM", "{}", ": a list of dialogues is expected, not dict"),
    ("DREAM", '[[["a"], []]]', r", dialogue 1: \[turns, questions, id\] is expected"),
    ("DREAM", '[{"turns": ["a"]}]', r", dialogue 1: \[turns, questions, id\] is expected"),
    ("DREAM", dream(None), ", dialogue 1: a turn must be text, not null"),
    ("DREAM", dream(name=False), ", dialogue 1: the id must be text, not bool"),
    ("DREAM", dream("\ud800"), r", dialogue 1: a turn holds half a character \(a lone surrogate\)"),
    ("DREAM", dream(name="\ud800"), r", dialogue 1: the id holds half a character \(a lone surrogate\)"),
    ("DREAM", dream(question="b"), ", dialogue 1, question 1: a JSON object is expected, not str"),
    ("DREAM", dream(question={"question": "b"}), ", dialogue 1, question 1: there is no list 'choice'"),
    ("DREAM", dream(answer="e"), ", dialogue 1, question 1: the answer 'e' is not among the choices"),
    ("DREAM", dream(question=3 * [1]), ", dialogue 1, question 1: a JSON object is expected, not list"),
    ("DREAM", dream(choice=["d"]), ", dialogue 1, question 1: 1 choice where 2 are expected"),
    ("DREAM", dream(answer="x" * LONG), r", dialogue 1, question 1: the answer 'x{60}\.\.\.' is not among the choices"),
    ("DREAM", "[" + "9" * 5000 + "]", ": JSON with a number too long to be read"),
    # comma-separated
    ("SWAG", "", ": the file has no rows"),
    ("SWAG", "a,b\n1,2\n", ", line 2: there is no column 'sent1'"),
    ("SWAG", "a,a\n1,2\n", ", line 1: the header names the column 'a' twice"),
    ("SWAG", SWAG + "a,b\n", ", line 2: 2 columns where 5 are expected"),
    ("SWAG", SWAG + "a,b,c,d,0\n\na,b,c,d,0\n", ", line 3: 0 columns where 5 are expected"),
    ("SWAG", SWAG + 'a,"b\n', r", line 2: not valid CSV \(unexpected end of data\)"),
    ("SWAG", SWAG + 'a,"b\nc\nd\n', r", line 4: .* \(.*; its row begins in line 2: is a quote not closed\?\)"),
    ("SWAG", SWAG + "a,b,c,d,x\n", ", line 2: the label 'x' is not among 0 to 1"),
    ("SWAG", SWAG + '"a\nb",b,c,d,0\na,b,c,d,2\n', ", line 4: the label '2' is not among 0 to 1"),
    ("SWAG", SWAG + f"{'x' * LONG},b,c,d,1\n", r", line 2: not valid CSV \(field larger than field limit"),
    ("SWAG", SWAG + "a,\0,c,d,1\n", r", line 2: the line has a NUL byte; is this a text file\?"),
    ("SWAG", "sent1,sent2,label\na,b,0\n", ", line 2: there are no choices"),
    # a word a line
    ("WNUT-2017", "", ": the file has no rows"),
    ("CoNLL-2003", "\n-DOCSTART-\tO\n\n", ": the file has no rows"),
    ("WNUT-2017", "film\tO\nweak\n", ", line 2: the row has no tag; a word and its tag are expected"),
    ("WNUT-2017", "film\tO\nweak\t\n", ", line 2: the row has no tag; a word and its tag are expected"),
    ("WNUT-2017", "film\nweak\n", ", line 1: the row has no tag; a word and its tag are expected"),
    ("WNUT-2017", "film O\nweak NN O\n", ", line 2: 3 columns where 2 are expected"),
    ("WNUT-2017", "film\tO\n\n\tO\n", ", line 3: the row has no word"),
    ("WNUT-2017", "\n\nfilm\tO\nweak\tB-film\n", ", line 4: unknown tag 'B-film'; WNUT-2017 has O, B-corporation, "),
    ("WNUT-2017", b"film\tO\nwe\xffak\tO\n", r", line 2: not valid UTF-8 \(invalid start byte\); save the file"),
    ("WNUT-2017", "film\tO\nwe\0ak\tO\n", r", line 2: the line has a NUL byte; is this a text file\?"),
    ("WNUT-2017", "film\tO\rweak\tO\r", ", line 1: .* carriage returns .*: convert it"),
    ("CoNLL-2003", "film NN O I-MISC\nweak JJ I-X I-X\n", ", line 2: unknown tag 'B-X'; CoNLL-2003 has O, B-MISC"),
    ("PTB", "", ": the file has no rows"),
    ("PTB", TREEBANK_ROW.replace("NN", "_"), r", line 1: the row has no tag: column 4 \(UPOS\) is '_'"),
    ("PTB", TREEBANK_ROW + "2-3\tit's\n", ", line 2: 2 columns where 10 are expected"),
    ("PTB", TREEBANK_ROW + "1.1\t" + "_\t" * 9 + "_\n", ", line 2: 11 columns where 10 are expected"),
    ("PTB", "\t".join("1234567890") + "\n" + "\t".join("123456789"), ", line 2: 9 columns where 10 are expected"),
]


def write_set(folder: Path, task: str, split: str, content: str | bytes) -> Path:
    """Write every file of a task's set with that content; gives the first of them."""
    data_set = KNOWN[task].train if split == "train" else next(iter(getattr(KNOWN[task], split).values()))
    paths = [folder / task / names[0] for names in data_set.files]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return paths[0]


@pytest.mark.parametrize(("task", "content", "expected"), BAD_FILES, ids=range(len(BAD_FILES)))
def test_a_bad_file_is_one_sentence_with_file_and_line(task, content, expected, encoder_folder, tmp_path, refused):
    path = write_set(tmp_path / "data", task, "train", content)
    said = refused(task, "--do_train", data_dir=tmp_path / "data", load_model_path=encoder_folder)
    assert re.fullmatch(f"{re.escape(str(path))}{expected}.*", said)
    assert len(said) < 500


def test_a_cell_may_hold_a_long_document(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text(SWAG + f"{'film ' * 50_000},b,c,d,1\n")
    [example] = read_file(KNOWN["SWAG"], path, labelled=True)
    assert example.context == "film " * 50_000


GOOD_FILES = {
    "SST-2": SST + "a plot\t1\nthe film\t0\n",
    "ANLI": rows(ANLI) * 2,
    "DREAM": json.dumps(json.loads(dream()) * 2, indent=1) + "\n",
    "SWAG": SWAG + 'a film,"is, ",good,dull,1\nb,b,c,d,0\n',
    "WNUT-2017": "film\tO\nweak\tB-group\n\nplot\tO\n",
}


@pytest.mark.parametrize("split", ["dev", "test"])
@pytest.mark.parametrize("task", sorted(GOOD_FILES))
def test_a_bad_file_of_another_set_is_found_before_training(task, split, encoder_folder, tmp_path, refused):
    write_set(tmp_path / "data", task, "train", GOOD_FILES[task])
    write_set(tmp_path / "data", task, "dev", GOOD_FILES[task])
    path = write_set(tmp_path / "data", task, split, GOOD_FILES[task][:-1] + "\0\n")
    flags = ("--do_train", "--do_eval", *(["--do_test"] if split == "test" else []))
    said = refused(task, *flags, data_dir=tmp_path / "data", load_model_path=encoder_folder)
    assert re.fullmatch(f"{re.escape(str(path))}, line \\d+: the line has a NUL byte; .*", said)


FINE = {
    "byte-order mark": lambda text: "\ufeff" + text,
    "CRLF": lambda text: text.replace("\n", "\r\n"),
    "no last line end": lambda text: text.rstrip("\n"),
    "all of them": lambda text: "\ufeff" + text.rstrip("\n").replace("\n", "\r\n"),
}


@pytest.mark.parametrize("task", sorted(GOOD_FILES))
def test_what_editors_do_to_a_file_changes_no_row(task, encoder_folder, tmp_path):
    expected = read_file(KNOWN[task], write_set(tmp_path, task, "train", GOOD_FILES[task]), True)
    assert len(expected) == 2
    for change in FINE.values():
        for split in ("train", "dev"):
            path = write_set(tmp_path, task, split, change(GOOD_FILES[task]))
            assert read_file(KNOWN[task], path, True) == expected
    # The last change is still in place.
    folder = run_folder(SCRIPTS[task].main, tmp_path, encoder_folder, tmp_path / "run", task, "--do_train", "--do_eval")
    rounds = 3 if task == "ANLI" else 1
    assert results_of(folder)["examples"] == {"train": 2 * rounds, "eval": 2 * rounds}


def test_a_line_of_ten_million_characters_is_read(tmp_path):
    path = write_set(tmp_path, "SST-2", "train", SST + "film " * (LONG // 5) + "\t1\na plot\t0\n")
    assert [len(row.texts[0]) for row in read_file(KNOWN["SST-2"], path, True)] == [LONG, 6]
