"""The user's own data -> a task like the built-in ones: from files, or from a data set of the `datasets` library.

Settings that are not given are guessed from the column names, and the guesses are logged. The labels come from the
training file or, without training, from the model.
"""

import argparse
import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from data.choices import kind_of_answers
from data.classes import named, saved_labels
from data.columns import (
    ARROW,
    CONTEXTS,
    DOCUMENT_MARK,
    LABELS,
    OUTSIDE,
    QUESTIONS,
    RIGHT,
    SCORES,
    SUFFIXES,
    TAGS,
    WORDS,
    columns_of,
    find_labels,
    find_tags,
    given_columns,
    guessed,
    guessed_choices,
    guessed_texts,
    only_other,
    some,
    tell,
    unclear,
)
from data.examples import SENTENCE_TABLES
from data.formats import arrow_features, class_names
from data.own_flags import FILES, METRICS, is_own, set_names
from data.own_sets import SPLITS, files_of, sets_of
from data.task_kinds import ChoiceColumns, ChoiceTask, DataSet, Names, SentenceTask, Task, TaskKind, TokenTask
from data.tasks import TASKS, find_task, names_of
from data.text import TextTask
from utils import InputError, log

# What a run calls files of its own, which predictions of the same name would overwrite, or be taken for.
RUN_FILES = re.compile(r"(?i)metrics|evaluation(-.*)?")

OF_CLASSES = ("accuracy", "macro_f1")
OF_NUMBERS = ("spearman", "pearson")
OF_ENTITIES = ("entity_f1", "token_f1", "entity_precision", "entity_recall", "accuracy")
ENTITY_TAG = re.compile(r"[BIESLU]-.+|O")  # BIO, and the schemes with tags for ends and single words


def task_of(args: argparse.Namespace, tasks: Mapping[str, TaskKind]) -> TaskKind:
    """The task that the arguments name, or a task of the same kind made from the user's own data.

    Raises:
        InputError: there is no task of that name, or the data cannot be used.
    """
    if not is_own(vars(args)):
        return find_task(args.task_name, tasks)
    return MAKERS[type(next(iter(tasks.values())))](args)


def sentence_task(args: argparse.Namespace) -> SentenceTask:
    """Make a task of one text or a pair of texts, with classes or, with --regression, numbers.

    Raises:
        InputError: a file is missing or cannot be read, or its columns are ambiguous.
    """
    name = task_name(args)
    files = files_of(args, SUFFIXES)
    first, columns = _first(args, files)
    saved = None if args.do_train else saved_labels(args.test_model_file)
    regression = args.regression or saved == ()
    texts = given_columns("--text_columns", args.text_columns, first, columns, most=2)
    label = given_columns("--label_column", args.label_column, first, columns)
    if {*texts} & {*label}:
        raise InputError(f"--label_column {args.label_column}: it is one of --text_columns too: give another")
    said = {"--text_columns": texts, "--label_column": label}
    # A test set may have columns that look like labels.
    needed = args.do_train or args.do_eval or (not regression and _labels_in_training_file(files, saved))
    if not label:
        known = SCORES if regression else LABELS
        label = guessed(
            first, "label", [each for each in columns if each not in texts], known, "--label_column", needed
        )
    texts = texts or guessed_texts(first, columns, label, needed)
    if needed and not label and not (label := only_other(columns, texts)):
        raise unclear(first, "label", columns, "--label_column")
    tell(first, {"text": texts, "label": label if needed else ()}, said)
    labels: Names = ()
    declared = False
    if not regression:
        labels, declared = _labels(args, name, files, label[0] if needed else None, saved)
    return SentenceTask(
        name=name,
        text=tuple((text,) for text in texts),
        label=label[:1] or LABELS[0][:1],
        labels=labels,
        numbered=labels if declared else (),
        no_gold_label=("-1",) if declared else (),  # how `datasets` marks a missing label
        metrics=_metrics(args, OF_NUMBERS if regression else OF_CLASSES, labels),
        own=True,
        **sets_of(args, name, files, stratified=not regression),
    )


def token_task(args: argparse.Namespace) -> TokenTask:
    """Make a task with a tag for each word, from tables with lists, or files with a word and its tag per line (CoNLL).

    Raises:
        InputError: a file is missing or cannot be read, or its columns are ambiguous.
    """
    name = task_name(args)
    files = files_of(args, ())
    paths = [path for split in SPLITS for paths in files[split] for path in paths]
    for path in paths:
        if path.suffix.lower() == ".csv":
            raise InputError(f"{path}: a table with lists is .json, .jsonl or .parquet; else a word and its tag a line")
    tables = [path for path in paths if path.suffix.lower() in SENTENCE_TABLES]
    saved = None if args.do_train else saved_labels(args.test_model_file) or None
    read = ["train"] * _labels_in_training_file(files, saved)
    if args.do_train or args.do_eval:
        read = ["train", args.eval_on]
    labelled = [path for split in SPLITS if split in read for each in files[split] for path in each]
    columns = _token_columns(args, tables, not {*labelled}.isdisjoint(tables)) if tables else None
    if not tables and (args.token_column or args.tag_column):
        flag = "token_column" if args.token_column else "tag_column"
        raise InputError(f"--{flag}: {paths[0]} has a word a line, the tag being its last column: leave the flag out")

    train = [path for paths in files["train"] for path in paths]
    if saved is None or not named(saved):
        if not train:
            raise _says_no_classes(args)
        labels = find_tags(train, columns)
        log.info(f"{name}: {len(labels)} tags, in the order of their classes: {some(labels)}")
    else:
        labels = saved
        log.info(f"{name}: {len(labels)} tags of {args.test_model_file}: {some(labels)}")
    return TokenTask(
        name=name,
        labels=labels,
        columns=columns,
        document_mark=DOCUMENT_MARK,
        metrics=_word_metrics(args, labels),
        own=True,
        **sets_of(args, name, files, stratified=False),
    )


def _token_columns(args: argparse.Namespace, tables: Sequence[Path], needed: bool) -> tuple[str, str]:
    """The columns of words and of tags; if no tags are needed, the second may be absent.

    Args:
        needed: whether tags are read from any of the tables.
    """
    first, columns = tables[0], columns_of(tables[0])
    given = {
        "--token_column": given_columns("--token_column", args.token_column, first, columns),
        "--tag_column": given_columns("--tag_column", args.tag_column, first, columns),
    }
    words, tags = given.values()
    words = words or guessed(first, "words", columns, WORDS, "--token_column")
    tags = tags or guessed(first, "tags", columns, TAGS, "--tag_column", needed)
    if not words:
        raise unclear(first, "words", columns, "--token_column")
    if needed and not tags:
        raise unclear(first, "tags", columns, "--tag_column")
    tell(first, {"words": words, "tags": tags if needed else ()}, given)
    return words[0], next(iter(tags), TAGS[0][0])


def choice_task(args: argparse.Namespace) -> ChoiceTask:
    """Make a multiple-choice task, whose rows may have different numbers of choices.

    Raises:
        InputError: a file is missing or cannot be read, or its columns are ambiguous.
    """
    name = task_name(args)
    files = files_of(args, SUFFIXES)
    first, columns = _first(args, files)
    given = {
        f"--{flag}": given_columns(f"--{flag}", getattr(args, flag), first, columns, most)
        for flag, most in (("context_column", 1), ("question_column", 1), ("choice_columns", 26), ("label_column", 1))
    }
    context, question, choices, label = given.values()
    left = [column for column in columns if not any(column in names for names in given.values())]
    choices = choices or guessed_choices(first, left)
    needed = args.do_train or args.do_eval
    label = label or guessed(first, "answer", left, RIGHT, "--label_column", needed)
    question = question or guessed(first, "question", left, QUESTIONS, "--question_column")
    context = context or guessed(first, "context", left, CONTEXTS, "--context_column")
    if not choices:
        raise unclear(first, "list of choices", columns, "--choice_columns")
    if not (context or question):
        raise unclear(first, "context", columns, "--context_column or --question_column")
    if needed and not label:
        raise unclear(first, "answer", columns, "--label_column")
    named = {"context": context, "question": question, "choices": choices, "answer": label if needed else ()}
    tell(first, named, given)
    about, asked = (next(iter(names), None) for names in (context, question))
    found = ChoiceColumns(about, asked, choices, next(iter(label), ""), "")
    # The training set or, without one, the set that is scored.
    labelled = files["train"] or files["dev"] or (files["test"] if args.do_eval else [])
    answers = "number from 0"
    if len(label) == 1 and labelled:
        answers = kind_of_answers(found, labelled[0], of_all=args.do_train)
        log.info(f"{name}: the answer is the {answers} of a choice")
    return ChoiceTask(
        name=name,
        columns=dataclasses.replace(found, answers=answers),
        own=True,
        **sets_of(args, name, files, stratified=False),
    )


MAKERS: dict[type[Task], Callable[[argparse.Namespace], Any]] = {
    SentenceTask: sentence_task,
    ChoiceTask: choice_task,
    TokenTask: token_task,
}


def recorded_task(args: Mapping) -> Task | None:
    """The task of a recorded run; for the user's own data, only the names of its sets are known. None if unknown."""
    if not is_own(args):
        return TASKS.get(args.get("task_name", ""))
    name = args["task_name"]
    if "mlm_probability" in args:
        return TextTask(name=name, train=None, dev={name: DataSet(())}, test={})
    names = {split: set_names(name, args.get(f"{split}_file") or [name], split) for split in ("dev", "test")}
    sets = {split: {each: DataSet((), submission=each) for each in names[split]} for split in names}
    given: dict = {"name": name, "metrics": (), "train": None, "own": True, **sets}
    if "token_column" in args:
        return TokenTask(**given)
    return ChoiceTask(**given) if "choice_columns" in args else SentenceTask(**given, text=(), label=())


def task_name(args: argparse.Namespace) -> str:
    """The task's name: as given, else taken from its data; never that of a built-in task."""
    known = {other.lower() for task in TASKS for other in names_of(task)}
    if args.task_name is not None:
        if args.task_name.lower() in known:
            raise InputError(
                f"--task_name {args.task_name}: a task with files of its own: call your own data by another name"
            )
        if RUN_FILES.fullmatch(args.task_name):
            raise InputError(f"--task_name {args.task_name}: a run has a file of this name: choose another")
        if not re.fullmatch(r"\w[\w.-]*", args.task_name):
            raise InputError(f"--task_name {args.task_name}: files get this name: use letters, digits, '_', '-', '.'")
        return args.task_name
    if args.dataset_name:
        name = Path(args.dataset_name).resolve().name if Path(args.dataset_name).is_dir() else args.dataset_name
        name = "-".join(filter(None, (name.rpartition("/")[2], args.dataset_config_name)))
    else:
        path = Path(next(each for split in FILES if (each := getattr(args, split)))[0])
        splits = "|".join(word for words in SPLITS.values() for word in words)
        # If the file name is only the split, the task is named after the folder.
        name = re.sub(rf"(?i)[-_.]?\b({splits})\b[-_.]?|[-_.]({splits})$|^({splits})[-_.]", "", path.stem)
        name = name or path.resolve().parent.name
    name = re.sub(r"[^\w.-]+", "_", name).lstrip(".-") or "data"
    if name.lower() in known or RUN_FILES.fullmatch(name):
        name = f"own-{name}"
    log.info(f"these data are called {name} (--task_name gives them another name)")
    return name


def _first(args: argparse.Namespace, files: Mapping[str, list[list[Path]]]) -> tuple[Path, list[str]]:
    """The file from which the columns are guessed, and its columns."""
    path = next(path for split in SPLITS for paths in files[split] for path in paths)
    return path, columns_of(path)


def _labels(
    args: argparse.Namespace, name: str, files: Mapping[str, list[list[Path]]], column: str | None, saved: Names | None
) -> tuple[Names, bool]:
    """The labels in class order, and whether the file itself names its numbered classes.

    Raises:
        InputError: there is no label, only one, or too many to be classes.
    """
    train = [path for paths in files["train"] for path in paths]
    declared = _declared(files, column)
    if saved is not None and not _labels_in_training_file(files, saved):
        labels = stripped(saved) if named(saved) else tuple(map(str, range(len(saved))))
        log.info(f"{name}: {len(labels)} labels of {args.test_model_file}: {some(labels)}")
        return labels, bool(declared)
    if not train:
        raise _says_no_classes(args)
    labels = stripped(declared) or find_labels(train, column or "")
    log.info(f"{name}: {len(labels)} labels, in the order of their classes: {some(labels)}")
    return labels, bool(declared)


def stripped(labels: Names) -> Names:
    """The labels without spaces around them, as they are read from rows."""
    return tuple(label.strip() for label in labels)


def _labels_in_training_file(files: Mapping[str, list[list[Path]]], saved: Names | None) -> bool:
    """Whether the labels come from a training file: there is one, and no saved model that names its classes."""
    return bool(files["train"]) and not (saved and named(saved))


def _says_no_classes(args: argparse.Namespace) -> InputError:
    return InputError(
        f"--test_model_file {args.test_model_file}: it does not say what its classes are: give the best/ folder of its"
        " run, or the --train_file that it was trained on"
    )


def _declared(files: Mapping[str, list[list[Path]]], column: str | None) -> Names:
    """The names of numbered classes in the first file, if its format has them; then the column need not be read."""
    path = next(path for split in SPLITS for paths in files[split] for path in paths)
    if column is None or path.suffix.lower() not in ARROW:
        return ()
    return tuple(class_names(arrow_features(path)[column]) or ())


def _metrics(args: argparse.Namespace, usual: Names, labels: Names) -> Names:
    """The metrics of the task, the primary one first."""
    first = args.metric or usual[0]
    numbers = usual == OF_NUMBERS
    if (first in OF_NUMBERS) != numbers:
        kind = "numbers (--regression)" if numbers else "classes"
        fit = usual if numbers else [name for name in METRICS["run_sent_clas"] if name not in OF_NUMBERS]
        raise InputError(f"--metric {first}: these data have {kind}; choose one of {', '.join(fit)}")
    if first == "f1" and len(labels) != 2:
        raise InputError(f"--metric f1 is of the second of two labels, and these data have {len(labels)}: use macro_f1")
    return (first, *(name for name in usual if name != first))


def _word_metrics(args: argparse.Namespace, tags: Names) -> Names:
    """The metrics of a token task, the primary one first; entity metrics if the tags mark entities."""
    entities = OUTSIDE in tags and all(map(ENTITY_TAG.fullmatch, tags))
    first = args.metric or (OF_ENTITIES[0] if entities else "accuracy")
    if not entities and first != "accuracy":
        raise InputError(f"--metric {first} is of entities: their tags are {OUTSIDE} and B-..., I-...; use accuracy")
    odd = [tag for tag in tags if not ENTITY_TAG.fullmatch(tag)]
    if OUTSIDE in tags and 0 < len(odd) < len(tags) - len(odd):
        log.warning(
            f"{some(odd)}: unlike the other tags, not of the form B-... or I-..., so the metric is accuracy; a slip, or"
            " a header line?"
        )
    return (first, *(name for name in (OF_ENTITIES if entities else ("accuracy",)) if name != first))
