"""The description of a task: its sets and their files, columns, labels, metrics and published settings."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, TypeVar

BINARY = ("0", "1")
IGNORED_LABEL = -100  # for a position without a label, as in PyTorch, and a row whose label the model lacks
Names = tuple[str, ...]


@dataclass(frozen=True)
class RowList:
    """A selection of a file's rows: those with listed ids, or all others.

    columns: their values together are the id of a row.
    """

    columns: Names
    ids: tuple[Names, ...]
    listed: bool


@dataclass(frozen=True)
class Part:
    """A set that may share one file with another set; a list of row ids says which rows belong to which.

    file: read if the task's folder has none of `split_files`.
    columns, listed: as in `RowList`.
    ids: possible names of the list; if the folder has none of them, the list next to this module is used.
    """

    file: str
    split_files: Names
    columns: Names
    ids: Names
    listed: bool


@dataclass(frozen=True)
class Share:
    """One of the two parts of a training set: the fraction held out for evaluation, chosen by the seed, or the rest."""

    fraction: float
    seed: int
    held_out: bool
    stratified: bool  # by the label


@dataclass(frozen=True)
class DataSet:
    """One set of rows of a task.

    files: each entry is one file, given by its possible names; all entries together are the set.
    instead: possible names of a single file that may replace several.
    gold: possible names of a file with the same rows and their labels, if the official file has no labels.
    part: the shared file that the set may be a part of.
    optional: if its files do not exist, the set is left out and this is logged.
    submission: name of the predictions file, without suffix.
    share: the part of the rows that is used, if not all.
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

    command: the settings given by a command in the release's README.
    ours: the settings that we chose because the release gives none. All others are defaults of the release's script.
    train_examples: size of the complete training set, for time estimates.
    eval_on: the set that is scored; GLUE's test sets have no public labels.
    seeds: the number of runs that a published score is the mean of.
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
        """The source of a setting's value."""
        if name in self.command:
            return "release command"
        return "ours" if name in self.ours else "script default"


@dataclass(frozen=True, kw_only=True)
class Task:
    """The fields of every task.

    metrics: names from `data.metrics`; the first is the primary one, shown as the eval score.
    train: None for a task that only evaluates another task's model.
    dev, test: set name -> rows; the first set of a split is the primary one.
    other_names: other names for the task and its folder, in any case.
    recipe: None if there are no published settings.
    own: whether it is made from the user's own files (`data.own`), which have no folder below --data_dir.
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

    text: for each sentence, the possible names of its column in the header.
    label: the possible names of the label's column.
    labels: the label words in class order; empty for a regression.
    header: the columns of a labelled file without a header line.
    aliases: other spellings of labels in the official files.
    numbered: the labels in the order of the numbers that may replace them in JSON.
    no_gold_label: the values that mark a row without a gold label (its annotators disagreed); it is left out and
        counted.
    bytes_literals: texts may be written as Python bytes literals, b'...'.
    only: the rows to use, if a file has others too.
    class_names: other names for the labels in model configurations, from transformers' example scripts and the
        `datasets` library; each in the order of `labels`.
    score_range: for a regression, the range if known; predictions in a submission are clipped to it.
    broken_rows: how many rows of a labelled file may have too few columns; they are left out and reported.
    counts_as: for models of another task, the label that each of their classes counts as.
    models: the class lists of such models, in order, for checkpoints that do not name their classes.
    groups: columns, if a file has them; accuracies are also reported for each of their values.
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
    """The columns of a multiple-choice table.

    context, question: None if there is no such column; there is at least one of the two.
    choices: one column with a list of choices, or one column for each.
    answer: the column with the right choice.
    answers: how that column refers to it, one of `data.choices.ANSWERS`.
    """

    context: str | None
    question: str | None
    choices: Names
    answer: str
    answers: str


@dataclass(frozen=True, kw_only=True)
class ChoiceTask(Task):
    """A multiple-choice task; a file's format depends on its suffix, the number of choices on its rows.

    questions: which of DREAM's questions are used, one of `DREAM_QUESTIONS`. The published scores use the first.
    columns: for the user's own tables, whose rows may have different numbers of choices.
    """

    script: ClassVar[str] = "run_multi_cho"
    metrics: Names = ("accuracy",)
    questions: str = "first"
    columns: ChoiceColumns | None = None


DREAM_QUESTIONS = ("first", "all")  # of each dialogue


@dataclass(frozen=True, kw_only=True)
class TokenTask(Task):
    """A task with a tag for each word; its files have one word per line, and an empty line between sentences.

    labels: the tags in class order; empty if they come from the training file (see `data.readers.with_labels`).
    iob1: the official files may open a span with I-; such tags are converted to BIO.
    document_mark: replaces a word where a document begins; it ends a sentence and is not a word.
    columns: for tables with one sentence per row, the columns with the lists of words and of tags.
    """

    script: ClassVar[str] = "run_tok_clas"
    labels: Names = ()
    iob1: bool = False
    document_mark: str | None = None
    columns: tuple[str, str] | None = None


TaskKind = TypeVar("TaskKind", bound=Task)
