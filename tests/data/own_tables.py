"""Small data of our own in every format, as a user would bring them."""

import csv
import json
from pathlib import Path

import datasets

from data import own
from data.readers import read_splits
from training import arguments

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
