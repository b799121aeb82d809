"""What a task says of itself: its sets and their files, columns, labels, metrics and published settings."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, TypeVar

BINARY = ("0", "1")
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


TaskKind = TypeVar("TaskKind", bound=Task)
