"""The tasks, one row each: files, columns, labels, metrics and the name of the submission file.

Files are looked up under `<data_dir>/<TASK>`, in any case. Of a tuple of names, the first that exists is used: the
official name comes first, then the release's.
"""

import difflib
from collections.abc import Iterable, Mapping

from data.task_kinds import BINARY, ChoiceTask, DataSet, Names, Part, Recipe, SentenceTask, Task, TaskKind, TokenTask
from utils import InputError

# The labels have the release's order, so that its checkpoints can be used here (except PTB's tags, which come from the
# training file).
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


def _sentence_task(name: str, text: tuple[Names, ...], label: str | Names, metrics: Names, **changes) -> SentenceTask:
    """A task with the usual GLUE file names, which `changes` may replace."""
    files = _single_files(name, ("train.tsv",), ("dev.tsv",), ("test.tsv",))
    label = (label,) if isinstance(label, str) else label
    return SentenceTask(text=text, label=label, metrics=metrics, **{**files, **changes})


def _single_files(name: str, train: Names, dev: Names, test: Names) -> dict:
    """Name and sets of a task with one file per set, given by its possible names."""
    return {
        "name": name,
        "train": DataSet((train,)),
        "dev": {name: DataSet((dev,))},
        "test": {name: DataSet((test,), submission=name)},
    }


MRPC_TRAIN, MRPC_TEST = "msr_paraphrase_train.txt", "msr_paraphrase_test.txt"


def _inference(labels: Names, numbered: Names | None = None) -> dict:
    """The fields that inference tasks have in common."""
    return {"labels": labels, "numbered": numbered or labels, "no_gold_label": NO_GOLD_LABEL}


def _mrpc_part(listed: bool) -> Part:
    """The part of MRPC's training file that is GLUE's training or dev set; GLUE lists the rows of the dev set."""
    ids = ("mrpc_dev_ids.tsv", "dev_ids.tsv")
    return Part(MRPC_TRAIN, ("train.tsv", "dev.tsv"), ("#1 ID", "#2 ID"), ids, listed)


OUR_RATE = ("learning_rate",)  # the rate of SST-2's command; the script's default is half of it
ONE = (("sentence",),)
TWO = (("sentence1",), ("sentence2",))
TWO_OR_HF = (("sentence1", "premise"), ("sentence2", "hypothesis"))  # second: in Hugging Face's copies
ANLI_ROUNDS = ("R1", "R2", "R3")
# The second file is nyu-mll/jiant's set from the same templates, half of it with perturbed sentences.
HANS_FILES = ("heuristics_evaluation_set.txt", "hans_perturbed_eval.tsv", "dev.tsv")


def _anli(split: str) -> dict[str, DataSet]:
    """All rounds together (the primary set), and each round alone."""
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
        # Three rows of the official train file lack columns; the release skips them silently.
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
                # GLUE's diagnostic set has no training data: it is predicted by an MNLI model.
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
            bytes_literals=True,  # the official script leaves b'...' around each sentence
            class_names=(NOT_DUPLICATE,),
            train=DataSet((("train.tsv", "train_+qqp.tsv"),)),
            dev={"PAWS-QQP": DataSet((("dev_and_test.tsv", "dev.tsv"),))},
            test={"PAWS-QQP": DataSet((("dev_and_test.tsv", "test.tsv"),), submission="PAWS-QQP")},
        ),
        # McCoy, Pavlick, Linzen (ACL 2019): two classes of a three-class model count as non-entailment.
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
        # Generated by data.demo: the word that predicts the label in training predicts the opposite in the shifted set.
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
        # As published: scored on the test set after each epoch, using only the first question of each dialogue.
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

# The first is the published score of the two entity tasks: over words, not over entities.
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


def find_task(name: str, tasks: Mapping[str, TaskKind]) -> TaskKind:
    """The task with this name, in any case.

    Raises:
        InputError: there is no such task; the message suggests the nearest.
    """
    return tasks[find_name(name, tasks, f"--task_name {name}")]


def find_name(name: str, known: Iterable[str], given: str) -> str:
    """The proper name of the known task with this name, in any case; `given` is how an error quotes the argument.

    Raises:
        InputError: there is no such task; the message suggests the nearest.
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
    """A task's name and its other names."""
    task = TASKS.get(name)
    return (name, *task.other_names) if task else (name,)
