"""Match the classes of a model with those of a task, by name."""

import json
from collections.abc import Sequence
from pathlib import Path

from data.task_kinds import ChoiceTask, Names, SentenceTask, Task
from utils import InputError, counted, declared_classes


def class_order(task: Task, words: Sequence[str]) -> list[int] | None:
    """The index of the model's class for each label of the task, in label order; None if the names do not match.

    Args:
        words: the names of the model's classes, in its own order, in any case. The single output of a regression or
            multiple-choice model needs no name.
    """
    labels = getattr(task, "labels", ())
    if not labels:
        return [0] if isinstance(task, ChoiceTask) or len(words) == 1 else None
    if getattr(task, "counts_as", None):  # each class counts as some label; the order does not matter
        return list(range(len(words))) if named(words) else None
    known = [
        (label, index) for names in (labels, *getattr(task, "class_names", ())) for index, label in enumerate(names)
    ]
    known += [(name, labels.index(label)) for name, label in getattr(task, "aliases", {}).items()]
    for spelling in (str, _plain):  # exact names first: the labels of a file may differ only in case
        indices = {spelling(name): index for name, index in known}
        found = [indices.get(spelling(str(word))) for word in words]  # in JSON, a name can be a number
        if len(found) == len(labels) and {*found} == {*range(len(labels))}:
            return [found.index(index) for index in range(len(labels))]
    return None


def match_classes(task: Task, words: Sequence[str], given: str) -> list[int] | None:
    """The order of a model's classes (see `class_order`); None if its classes have no names.

    Args:
        words: the model's class names; `LABEL_<i>` stands for no name.
        given: how an error quotes the checkpoint.

    Raises:
        InputError: the model's classes are not those of the task.
    """
    order, labels = class_order(task, words), getattr(task, "labels", ())
    if order is None and not getattr(task, "counts_as", None):
        count = len(labels) or 1
        if len(words) != count:
            raise InputError(f"{given}: it has {counted(len(words), 'label')}, the task {count}")
        if named(words):
            theirs, ours = (", ".join(map(str, names)) for names in (words, labels))
            raise InputError(
                f"{given}: its classes are {theirs}, the task's {ours}: give a model of the task's classes"
            )
    return order


def named(words: Sequence[str]) -> bool:
    """Whether a model's classes have real names, rather than those that transformers makes from their numbers."""
    return list(words) != [f"LABEL_{index}" for index in range(len(words))]


def _plain(word: str) -> str:
    """A class name, normalised: without the differences between sources."""
    return word.strip().lower().replace("-", "_").replace(" ", "_")


def model_classes(task: SentenceTask, words: Sequence[str], given: str) -> Names:
    """The classes of another task's model, in its own order, each of which the task counts as one of its labels.

    Args:
        words: the model's own names; `LABEL_<i>` for a class without one.
        given: how an error quotes the checkpoint.

    Raises:
        InputError: the task does not accept this model.
    """
    known = {_plain(word): word for word in task.counts_as}
    if all(_plain(str(word)) in known for word in words):
        return tuple(known[_plain(str(word))] for word in words)
    for classes in task.models:
        if len(classes) == len(words) and not named(words):
            return classes
    taken = " or ".join(", ".join(classes) for classes in task.models)
    raise InputError(f"{given}: its classes are {', '.join(map(str, words))}; {task.name} takes a model of {taken}")


def saved_labels(checkpoint: str) -> Names | None:
    """The classes of a saved model, () for a regression; None if neither the model nor its run's best/ names them."""
    path = Path(checkpoint)
    file = path / "config.json" if path.is_dir() else path.parent / "best" / "config.json"
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
        names = declared_classes(config) or {number: f"LABEL_{number}" for number in range(2)}  # the library's default
        labels = tuple(names[number] for number in sorted(names))
    except (OSError, ValueError, AttributeError, TypeError):
        return None
    return () if config.get("problem_type") == "regression" or len(labels) == 1 else labels
