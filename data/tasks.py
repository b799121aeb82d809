"""The tasks, one row each: files, columns, labels, metrics and the name of the submission file.

A file is looked for under `<data_dir>/<TASK>` in any case. Where a tuple of names is given, the first that exists is
taken: the official name stands first, the release's own after it.
"""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, TypeVar

from utils import InputError

BINARY = ("0", "1")
# The order of the labels is the release's, so that its checkpoints mean the same here (all but PTB's tags, which are
# those of the training file).
ENTAILMENT = ("entailment", "not_entailment")
NOT_DUPLICATE = ("not_duplicate", "duplicate")
NLI = ("contradiction", "entailment", "neutral")
HANS_LABELS = ("entailment", "non-entailment")
NLI_LETTERS = {"c": "contradiction", "e": "entailment", "n": "neutral"}
CONLL_TAGS = ("O", "B-MISC", "I-MISC", "B-PER", "I-PER", "B-ORG", "I-ORG", "B-LOC", "I-LOC")
WNUT_TYPES = ("corporation", "creative-work", "group", "location", "person", "product")

# The order in which Hugging Face's copies number the labels of inference tasks; -1 is a row without a gold label.
NUMBERED_NLI = ("entailment", "neutral", "contradiction")
NO_GOLD_LABEL = ("-", "-1")

Names = tuple[str, ...]


@dataclass(frozen=True)
class RowList:
    """Which rows of a file are meant: those whose ids are listed, or all others.

    columns: their values together are the id of a row.
    """

    columns: Names
    ids: tuple[Names, ...]
    listed: bool


@dataclass(frozen=True)
class Part:
    """A set that may share one file with another set; a list of row ids says which rows are whose.

    file: read where the task's folder has none of `split_files`.
    columns, listed: as in `RowList`.
    ids: possible names of the list; where the folder has none of them, the one beside this module is taken.
    """

    file: str
    split_files: Names
    columns: Names
    ids: Names
    listed: bool


@dataclass(frozen=True)
class Share:
    """One of the two parts of a training set of which a fraction is held out for evaluation, the same by each seed."""

    fraction: float
    seed: int
    held_out: bool
    stratified: bool  # by the label


@dataclass(frozen=True)
class DataSet:
    """One set of rows of a task.

    files: each entry is one file, given by its possible names; all entries together are the set.
    instead: possible names of a single file that may stand in place of several.
    gold: possible names of a file with the same rows and their labels, where the official one has none.
    part: of which file the set may be a part.
    optional: the set is left out, and the log says so, when its files are not there.
    submission: name of the predictions file, without its suffix.
    share: the part of the rows that counts, where not all do.
    """

    files: tuple[Names, ...]
    instead: Names = ()
    gold: Names = ()
    part: Part | None = None
    optional: bool = False
    submission: str = ""
    share: Share | None = None


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The hyper-parameters of a task's fine-tuning, and how it is scored.

    command: the settings that a command in the release's README gives.
    ours: those that we chose, as the release does not say. Every other is the default of the release's script.
    train_examples: how many the complete training set has, for an estimate of the time.
    eval_on: the set that is scored; GLUE's test sets have no public labels.
    seeds: how many runs a published figure is the mean of.
    """

    command: Names = ()
    ours: Names = ()

    train_examples: int
    learning_rate: float = 2e-5
    train_batch_size: int = 32
    num_train_epochs: int = 3
    warmup_proportion: float = 0.06
    weight_decay: float = 0.01
    max_seq_length: int = 128
    eval_on: str = "dev"
    seeds: int = 3

    def settings(self) -> dict[str, int | float | str]:
        """Argument of the task's script -> its value."""
        other = ("command", "ours", "train_examples", "seeds")
        return {name: value for name, value in vars(self).items() if name not in other}

    def source(self, name: str) -> str:
        """Where a setting's value is from."""
        if name in self.command:
            return "release command"
        return "ours" if name in self.ours else "script default"


@dataclass(frozen=True, kw_only=True)
class Task:
    """What every task has.

    metrics: names from `data.metrics`; the first is the primary one, shown as the eval score.
    train: None where the task is for the evaluation of another task's model.
    dev, test: set name -> rows, the first set of a split being the primary one.
    other_names: what else the task and its folder may be called, in any case.
    recipe: None where there are no published settings.
    own: it is made of the user's own files (`data.own`), which have no folder below --data_dir.
    script: the module that trains and evaluates it.
    """

    script: ClassVar[str]
    name: str
    metrics: Names
    train: DataSet | None
    dev: Mapping[str, DataSet]
    test: Mapping[str, DataSet]
    other_names: Names = ()
    recipe: Recipe | None = None
    own: bool = False

    @property
    def submissions(self) -> dict[str, DataSet]:
        """The test sets that have a predictions file."""
        return {name: data_set for name, data_set in self.test.items() if data_set.submission}


@dataclass(frozen=True, kw_only=True)
class SentenceTask(Task):
    """A sentence or sentence-pair classification (or regression) task.

    text: the column of each sentence, by its possible names in the header.
    label: the column of the label.
    labels: the label words in class order; empty for a regression.
    header: the columns of a labelled file that has no header line.
    aliases: other spellings of labels in the official files.
    numbered: the labels in the order of the numbers that may stand for them in JSON.
    no_gold_label: what a row has in place of a label where its annotators did not agree; it is left out and counted.
    bytes_literals: texts may stand as b'...', Python's literals of bytes.
    only: the rows that count, where a file has others too.
    class_names: what else the labels are called in the configurations of models, each in the order of `labels`: by the
        example scripts of transformers, and in the sets of `datasets`.
    score_range: of a regression, where it is known; predictions in a submission are clipped to it.
    broken_rows: how many rows of a labelled file may have too few columns (they are left out and reported).
    counts_as: where the model is that of another task, which label each of its classes counts as.
    models: the classes of such models, in order, for a checkpoint that does not name them.
    groups: the columns, where a file has them, for whose values accuracies are given too.
    """

    script: ClassVar[str] = "run_sent_clas"
    text: tuple[Names, ...]
    label: Names
    labels: Names = BINARY
    header: Names | None = None
    aliases: Mapping[str, str] = field(default_factory=dict)
    numbered: Names = ()
    no_gold_label: Names = ()
    bytes_literals: bool = False
    only: RowList | None = None
    class_names: tuple[Names, ...] = ()
    score_range: tuple[float, float] | None = None
    broken_rows: int = 0
    counts_as: Mapping[str, str] = field(default_factory=dict)
    models: tuple[Names, ...] = ()
    groups: Names = ()

    @property
    def regression(self) -> bool:
        return not self.labels


@dataclass(frozen=True)
class ChoiceColumns:
    """Where tables have what multiple choice needs.

    context, question: None where there is no such column; one of them there is.
    choices: one with a list of them, or one for each.
    answer: which choice is right.
    answers: how it is said, one of `data.choices.ANSWERS`.
    """

    context: str | None
    question: str | None
    choices: Names
    answer: str
    answers: str


@dataclass(frozen=True, kw_only=True)
class ChoiceTask(Task):
    """A multiple-choice task; the form of a file follows from its suffix, the number of choices from its rows.

    questions: which of DREAM's questions count, one of `DREAM_QUESTIONS`. The published numbers count the first.
    columns: those of the user's own tables, whose rows may have different numbers of choices.
    """

    script: ClassVar[str] = "run_multi_cho"
    metrics: Names = ("accuracy",)
    questions: str = "first"
    columns: ChoiceColumns | None = None


DREAM_QUESTIONS = ("first", "all")  # of each dialogue


@dataclass(frozen=True, kw_only=True)
class TokenTask(Task):
    """A task with a tag for each word; its files have a word a line, and an empty line between sentences.

    labels: the tags in class order; empty where they are those of the training file (see `data.readers.with_labels`).
    iob1: the official files may open a span with I-; such tags are turned into BIO.
    document_mark: what stands in place of a word where a document begins; it ends a sentence and is not a word.
    columns: of tables with a sentence a row, the columns that have lists of its words and of their tags.
    """

    script: ClassVar[str] = "run_tok_clas"
    labels: Names = ()
    iob1: bool = False
    document_mark: str | None = None
    columns: tuple[str, str] | None = None


def _sentence_task(name: str, text: tuple[Names, ...], label: str | Names, metrics: Names, **changes) -> SentenceTask:
    """A row with the usual GLUE file names, which `changes` may replace."""
    files = _single_files(name, ("train.tsv",), ("dev.tsv",), ("test.tsv",))
    label = (label,) if isinstance(label, str) else label
    return SentenceTask(text=text, label=label, metrics=metrics, **{**files, **changes})


def _single_files(name: str, train: Names, dev: Names, test: Names) -> dict:
    """Name and sets of a task that has one file for each set, given by its possible names."""
    return {
        "name": name,
        "train": DataSet((train,)),
        "dev": {name: DataSet((dev,))},
        "test": {name: DataSet((test,), submission=name)},
    }


MRPC_TRAIN, MRPC_TEST = "msr_paraphrase_train.txt", "msr_paraphrase_test.txt"


def _inference(labels: Names, numbered: Names | None = None) -> dict:
    """What inference tasks have in common."""
    return {"labels": labels, "numbered": numbered or labels, "no_gold_label": NO_GOLD_LABEL}


def _mrpc_part(listed: bool) -> Part:
    """The corpus has one file for GLUE's training and dev set, and GLUE a list of the rows of the latter."""
    ids = ("mrpc_dev_ids.tsv", "dev_ids.tsv")
    return Part(MRPC_TRAIN, ("train.tsv", "dev.tsv"), ("#1 ID", "#2 ID"), ids, listed)


OUR_RATE = ("learning_rate",)  # that of SST-2's command; the script's default is half of it
ONE = (("sentence",),)
TWO = (("sentence1",), ("sentence2",))
TWO_OR_HF = (("sentence1", "premise"), ("sentence2", "hypothesis"))  # or as Hugging Face's copies call them
ANLI_ROUNDS = ("R1", "R2", "R3")
# The second is nyu-mll/jiant's set from the same templates, half of it with perturbed sentences.
HANS_FILES = ("heuristics_evaluation_set.txt", "hans_perturbed_eval.tsv", "dev.tsv")


def _anli(split: str) -> dict[str, DataSet]:
    """All rounds together, the primary figure, and each round alone."""
    files = {name: (f"{name}/{split}.jsonl",) for name in ANLI_ROUNDS}
    submission = "ANLI" if split == "test" else ""
    together = DataSet(tuple(files.values()), instead=(f"{split}.tsv",), submission=submission)
    return {"ANLI": together} | {name: DataSet((names,), optional=True) for name, names in files.items()}


SENTENCE_TASKS: dict[str, SentenceTask] = {
    task.name: task
    for task in (
        _sentence_task(
            "CoLA",
            ONE,
            "label",
            ("matthews",),
            header=("source", "label", "mark", "sentence"),
            class_names=(("unacceptable", "acceptable"),),
            recipe=Recipe(train_examples=8551, ours=OUR_RATE),
        ),
        _sentence_task(
            "SST-2",
            ONE,
            "label",
            ("accuracy",),
            class_names=(("negative", "positive"), ("neg", "pos")),
            recipe=Recipe(train_examples=67349, command=("learning_rate", "train_batch_size")),
        ),
        _sentence_task(
            "MRPC",
            (("#1 String",), ("#2 String",)),
            "Quality",
            ("f1", "accuracy"),
            class_names=(("not_equivalent", "equivalent"),),
            train=DataSet((("train.tsv",),), part=_mrpc_part(listed=False)),
            dev={"MRPC": DataSet((("dev.tsv",),), part=_mrpc_part(listed=True))},
            test={"MRPC": DataSet((("test.tsv", MRPC_TEST),), gold=(MRPC_TEST,), submission="MRPC")},
            recipe=Recipe(train_examples=3668, ours=OUR_RATE),
        ),
        _sentence_task(
            "STS-B",
            TWO,
            "score",
            ("spearman", "pearson"),
            labels=(),
            score_range=(0.0, 5.0),
            recipe=Recipe(train_examples=5749, ours=OUR_RATE),
        ),
        # Three rows of the official train file lack columns; the release passes over them without a word.
        _sentence_task(
            "QQP",
            (("question1",), ("question2",)),
            "is_duplicate",
            ("f1", "accuracy"),
            dev={"QQP": DataSet((("dev.tsv", "dev_and_test.tsv"),))},
            broken_rows=10,
            class_names=(NOT_DUPLICATE,),
            recipe=Recipe(train_examples=363846, ours=OUR_RATE),
        ),
        _sentence_task(
            "MNLI",
            TWO_OR_HF,
            ("gold_label", "label"),
            ("accuracy",),
            **_inference(NLI, NUMBERED_NLI),
            dev={
                "MNLI-m": DataSet((("dev_matched.tsv",),)),
                "MNLI-mm": DataSet((("dev_mismatched.tsv",),), optional=True),
            },
            test={
                "MNLI-m": DataSet((("test_matched.tsv",),), submission="MNLI-m"),
                "MNLI-mm": DataSet((("test_mismatched.tsv",),), submission="MNLI-mm"),
                # GLUE's diagnostic set has no training data of its own: it is predicted by an MNLI model.
                "AX": DataSet(
                    (
                        (
                            "AX.tsv",
                            "diagnostic.tsv",
                            "../AX/AX.tsv",
                            "../AX/diagnostic.tsv",
                            "../diagnostic/diagnostic.tsv",
                        ),
                    ),
                    optional=True,
                    submission="AX",
                ),
            },
            recipe=Recipe(train_examples=392702, ours=OUR_RATE),
        ),
        _sentence_task(
            "QNLI",
            (("question",), ("sentence",)),
            "label",
            ("accuracy",),
            **_inference(ENTAILMENT),
            class_names=(BINARY,),
            recipe=Recipe(train_examples=104743, ours=OUR_RATE),
        ),
        _sentence_task(
            "RTE",
            TWO,
            "label",
            ("accuracy",),
            **_inference(ENTAILMENT),
            class_names=(BINARY,),
            recipe=Recipe(train_examples=2490, ours=OUR_RATE),
        ),
        _sentence_task(
            "WNLI",
            TWO,
            "label",
            ("accuracy",),
            **_inference(BINARY),
            class_names=(("not_entailment", "entailment"),),
            recipe=Recipe(train_examples=635, ours=OUR_RATE),
        ),
        _sentence_task(
            "ANLI",
            (("context", "sentence1", "premise"), ("hypothesis", "sentence2")),
            "label",
            ("accuracy",),
            **_inference(NLI, NUMBERED_NLI),
            aliases=NLI_LETTERS,
            train=DataSet(tuple((f"{name}/train.jsonl",) for name in ANLI_ROUNDS), instead=("train.tsv",)),
            dev=_anli("dev"),
            test=_anli("test"),
        ),
        _sentence_task(
            "PAWS-QQP",
            TWO,
            "label",
            ("accuracy", "f1"),
            bytes_literals=True,  # the official script leaves them around each sentence
            class_names=(NOT_DUPLICATE,),
            train=DataSet((("train.tsv", "train_+qqp.tsv"),)),
            dev={"PAWS-QQP": DataSet((("dev_and_test.tsv", "dev.tsv"),))},
            test={"PAWS-QQP": DataSet((("dev_and_test.tsv", "test.tsv"),), submission="PAWS-QQP")},
        ),
        # McCoy, Pavlick, Linzen (ACL 2019): of a model with three classes, two count as non-entailment.
        _sentence_task(
            "HANS",
            TWO_OR_HF,
            ("gold_label", "label"),
            ("accuracy",),
            **_inference(HANS_LABELS),
            counts_as={"entailment": "entailment"}
            | dict.fromkeys(("neutral", "contradiction", "not_entailment", "non-entailment"), "non-entailment"),
            models=(NLI, ENTAILMENT),
            groups=("heuristic", "perturbed"),
            train=None,
            dev={"HANS": DataSet((HANS_FILES,))},
            test={"HANS": DataSet((HANS_FILES,), submission="HANS")},
        ),
        # Our own text, from data.demo: in the shifted set a word that gives the label away says the opposite.
        _sentence_task(
            "DEMO",
            ONE,
            "label",
            ("accuracy",),
            dev={"DEMO": DataSet((("dev.tsv",),)), "shifted": DataSet((("shifted.tsv",),))},
        ),
    )
}


CHOICE_TASKS: dict[str, ChoiceTask] = {
    task.name: task
    for task in (
        # As published: scored on the test set after each epoch, the first question of each dialogue alone.
        ChoiceTask(
            **_single_files("DREAM", ("train.json",), ("dev.json",), ("test.json",)),
            recipe=Recipe(
                train_examples=3869,
                command=("learning_rate", "train_batch_size", "num_train_epochs", "eval_on"),
                train_batch_size=16,
                num_train_epochs=6,
                weight_decay=0.0,
                eval_on="test",
                seeds=5,
            ),
        ),
        ChoiceTask(**_single_files("SWAG", ("train.csv",), ("val.csv",), ("test.csv",))),
        ChoiceTask(
            **_single_files(
                "HellaSWAG", ("hellaswag_train.jsonl",), ("hellaswag_val.jsonl",), ("hellaswag_test.jsonl",)
            )
        ),
    )
}

# The published score of the two entity tasks is the first: over words, not over entities.
ENTITY_METRICS = ("token_f1", "entity_f1", "entity_precision", "entity_recall")

TOKEN_TASKS: dict[str, TokenTask] = {
    task.name: task
    for task in (
        TokenTask(
            **_single_files(
                "CoNLL-2003",
                ("eng.train", "train.txt"),
                ("eng.testa", "valid.txt", "dev.txt"),
                ("eng.testb", "test.txt"),
            ),
            metrics=ENTITY_METRICS,
            labels=CONLL_TAGS,
            iob1=True,
            document_mark="-DOCSTART-",
            other_names=("CoNLL2003", "CoNLL-03", "CoNLL03"),
        ),
        TokenTask(
            **_single_files("PTB", ("train.txt",), ("dev.txt",), ("test.txt",)),
            metrics=("accuracy",),
            other_names=("PTB-POS",),
        ),
        TokenTask(
            **_single_files(
                "WNUT-2017",
                ("wnut17train.conll", "train.txt"),
                ("emerging.dev.conll", "dev.txt"),
                ("emerging.test.annotated", "test.txt"),
            ),
            metrics=ENTITY_METRICS,
            labels=("O", *(f"B-{kind}" for kind in WNUT_TYPES), *(f"I-{kind}" for kind in WNUT_TYPES)),
            other_names=("WNUT2017", "WNUT-17", "WNUT17"),
            recipe=Recipe(
                train_examples=3394,
                ours=("num_train_epochs",),
                learning_rate=5e-5,
                num_train_epochs=5,
                warmup_proportion=0.1,
                weight_decay=0.0,
                seeds=5,
            ),
        ),
    )
}

TASKS: dict[str, Task] = {**SENTENCE_TASKS, **CHOICE_TASKS, **TOKEN_TASKS}

TaskKind = TypeVar("TaskKind", bound=Task)


def class_order(task: Task, words: Sequence[str]) -> list[int] | None:
    """Which of a model's classes each label of the task is, in the order of the labels; None where no name says so.

    Args:
        words: the names of the model's classes, in its own order; case does not count. The one output of a regression,
            and that for each choice, needs no name.
    """
    labels = getattr(task, "labels", ())
    if not labels:
        return [0] if isinstance(task, ChoiceTask) or len(words) == 1 else None
    if getattr(task, "counts_as", None):  # each class counts as a label, in any order
        return list(range(len(words))) if _named(words) else None
    known = [
        (label, index) for names in (labels, *getattr(task, "class_names", ())) for index, label in enumerate(names)
    ]
    known += [(name, labels.index(label)) for name, label in getattr(task, "aliases", {}).items()]
    for spelling in (str, _plain):  # as they stand first: the labels of a file may differ by case alone
        indices = {spelling(name): index for name, index in known}
        found = [indices.get(spelling(str(word))) for word in words]  # in JSON, a name can be a number
        if len(found) == len(labels) and {*found} == {*range(len(labels))}:
            return [found.index(index) for index in range(len(labels))]
    return None


def match_classes(task: Task, words: Sequence[str], given: str) -> list[int] | None:
    """`class_order` of a model that is to be scored; None where its classes have no names.

    Args:
        words: `LABEL_<i>` where the model has no names.
        given: how an error quotes the checkpoint.

    Raises:
        InputError: its classes are not those of the task.
    """
    order, labels = class_order(task, words), getattr(task, "labels", ())
    if order is None and not getattr(task, "counts_as", None):
        count = len(labels) or 1
        if len(words) != count:
            raise InputError(f"{given}: it has {len(words)} labels, the task {count}")
        if _named(words):
            theirs, ours = (", ".join(map(str, names)) for names in (words, labels))
            raise InputError(
                f"{given}: its classes are {theirs}, the task's {ours}: give a model of the task's classes"
            )
    return order


def _named(words: Sequence[str]) -> bool:
    """Whether a model's classes have names of their own, which transformers otherwise makes from their numbers."""
    return list(words) != [f"LABEL_{index}" for index in range(len(words))]


def _plain(word: str) -> str:
    """A class name without what differs from one source to another."""
    return word.strip().lower().replace("-", "_").replace(" ", "_")


def model_classes(task: SentenceTask, words: Sequence[str], given: str) -> Names:
    """The classes of another task's model, in its order, all of which the task counts as one of its labels.

    Args:
        words: the model's own names, `LABEL_<i>` where it has none.
        given: how an error quotes the checkpoint.

    Raises:
        InputError: it is not a model that the task takes.
    """
    known = {_plain(word): word for word in task.counts_as}
    if all(_plain(str(word)) in known for word in words):
        return tuple(known[_plain(str(word))] for word in words)
    for classes in task.models:
        if len(classes) == len(words) and not _named(words):
            return classes
    taken = " or ".join(", ".join(classes) for classes in task.models)
    raise InputError(f"{given}: its classes are {', '.join(map(str, words))}; {task.name} takes a model of {taken}")


def find_task(name: str, tasks: Mapping[str, TaskKind]) -> TaskKind:
    """The task of that name, in any case.

    Raises:
        InputError: there is none; the message suggests the nearest.
    """
    return tasks[find_name(name, tasks, f"--task_name {name}")]


def find_name(name: str, known: Iterable[str], given: str) -> str:
    """The known task that has the name, in any case; `given` is how an error quotes what the user gave.

    Raises:
        InputError: there is none; the message suggests the nearest.
    """
    by_lower = {other.lower(): word for word in known for other in names_of(word)}
    if name.lower() in by_lower:
        return by_lower[name.lower()]
    others = {other.lower() for word in TASKS for other in names_of(word)}
    if name.lower() in others:
        raise InputError(f"{given}: a task of another script; known here are {', '.join(known)}")
    near = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.4)
    hint = f"did you mean {by_lower[near[0]]}?" if near else f"known tasks are {', '.join(known)}"
    raise InputError(f"{given}: no such task; {hint}")


def names_of(name: str) -> Names:
    """A task's name, and what else it may be called."""
    task = TASKS.get(name)
    return (name, *task.other_names) if task else (name,)
