"""The command line of the scripts: shared argument groups, checked before anything is loaded.

Nothing heavy is imported here: `--help` and an argument that is wrong are answered at once.
"""

import argparse
import importlib.util
import math
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from data import own_flags
from data.columns import SUFFIXES
from data.task_kinds import DREAM_QUESTIONS, Task
from data.tasks import CHOICE_TASKS, SENTENCE_TASKS, TOKEN_TASKS
from models.methods import ATTENTION_IMPLEMENTATIONS, METHODS, PROTOCOLS, R3F_NOISES
from training import argument_files, text_arguments, trackers
from utils import InputError, Parser

# Those of the release: they need no settings of their own.
SCHEDULERS = ("linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup")
POLYNOMIAL_END = 1e-7  # the learning rate at which transformers lets it end

# What says where and how a run computes, and not what: it may change when the run is resumed.
EXECUTION = {
    *(
        "config",
        "args_from",
        "output_dir",
        "overwrite_output_dir",
        "resume",
        "save_steps",
        "save_total_limit",
        "logging_steps",
        "liveness_steps",
        "report_to",
    ),
    *("data_dir", "cache_dir", "token_cache_dir", "num_workers", "eval_batch_size", "do_test", "resume_changed_code"),
    *("test_file", "predictions_format"),
}
# What follows from other arguments where it is not given.
SETTLED = ("attn_implementation", "group_by_length", "pad_to_max_length")

# Methods that --fsdp is tested with; others keep a second set of weights, or go back through the encoder on their own.
WITH_FSDP = ("naive", "asa")
TRUNCATIONS = ("longest_first", "only_first")


@dataclass(frozen=True)
class Script:
    """What differs between the command lines of the scripts.

    tasks: its tasks by name.
    defaults: those of the release.
    """

    about: str
    tasks: Mapping[str, Task]
    defaults: Mapping[str, object]


SCRIPTS = {
    "run_sent_clas": Script(
        "Fine-tune, evaluate and test an encoder on a sentence or sentence-pair task.",
        SENTENCE_TASKS,
        {
            "train_batch_size": 32,
            "eval_batch_size": 128,
            "learning_rate": 1e-5,
            "warmup_proportion": 0.06,
            "weight_decay": 0.01,
        },
    ),
    "run_multi_cho": Script(
        "Fine-tune, evaluate and test an encoder on a multiple-choice task.",
        CHOICE_TASKS,
        {
            "train_batch_size": 16,
            "eval_batch_size": 64,
            "learning_rate": 1e-5,
            "warmup_proportion": 0.06,
            "weight_decay": 0.0,
        },
    ),
    "run_tok_clas": Script(
        "Fine-tune, evaluate and test an encoder on a task with a tag for each word.",
        TOKEN_TASKS,
        {
            "train_batch_size": 32,
            "eval_batch_size": 64,
            "learning_rate": 5e-5,
            "warmup_proportion": 0.1,
            "weight_decay": 0.0,
        },
    ),
    "run_mlm": Script(
        "Train an encoder further on plain text, by masked language modelling.",
        {},
        {
            "train_batch_size": 32,
            "eval_batch_size": 64,
            "learning_rate": 1e-4,
            "warmup_proportion": 0.06,
            "weight_decay": 0.01,
        },
    ),
}


class Default(int):
    """A number that nobody typed, and that may give way to what an encoder can do."""


def of_script(name: str, argv: Sequence[str] | None) -> argparse.Namespace:
    """The arguments of one of `SCRIPTS`, checked as far as they can be without reading a file.

    Raises:
        InputError: the arguments contradict each other.
    """
    script = SCRIPTS[name]
    parser = build_parser(script.about, script.tasks, **script.defaults)
    if name == "run_multi_cho":
        group = parser.add_argument_group("multiple choice")
        group.add_argument(
            "--dream_questions",
            choices=DREAM_QUESTIONS,
            default="first",
            help="how many questions of each DREAM dialogue count (default: %(default)s)",
        )
        group.add_argument(
            "--truncation",
            choices=TRUNCATIONS,
            default="longest_first",
            help="cut the longer of context and question, or the context alone (default: %(default)s)",
        )
    if name == "run_mlm":
        text_arguments.add_flags(parser, share)
    else:
        _add_own_data(parser, name)
    argument_files.add_flags(parser)
    return parse(parser, argument_files.with_files(parser, sys.argv[1:] if argv is None else argv))


def build_parser(description: str, tasks: Iterable[str], **defaults) -> Parser:
    """The parser of one script.

    Args:
        tasks: the names of the script's tasks, for the help text.
        defaults: what differs between the scripts.
    """
    parser = Parser(description=description, allow_abbrev=False)

    group = parser.add_argument_group("what to do, in any combination")
    group.add_argument("--do_train", action="store_true", help="fine-tune, and save the weights of each epoch")
    group.add_argument("--do_eval", action="store_true", help="evaluate after each epoch, or a saved checkpoint")
    group.add_argument(
        "--do_test", action="store_true", help="predict the test set with the best epoch or with --test_model_file"
    )

    group = parser.add_argument_group("data")
    known = ", ".join(tasks)
    about = f"upper or lower case: {known}" if known else "what to call the text"
    group.add_argument("--task_name", metavar="TASK", help=about)
    group.add_argument("--data_dir", default="data/sets", help="folder with a folder per task (default: %(default)s)")
    group.add_argument(
        "--eval_on", choices=("dev", "test"), default="dev", help="the labelled set for --do_eval (default: dev)"
    )
    group.add_argument(
        "--eval_file", metavar="FILE", help="evaluate on this file, in the format of the task's dev set, instead"
    )
    group.add_argument(
        "--eval_masks",
        metavar="random|FILE",
        help="score a checkpoint under masks: of --method asa or asa_budget by the adversaries in this checkpoint,"
        " of random_mask drawn by --seed",
    )
    group.add_argument(
        "--max_seq_length",
        type=positive_int,
        default=Default(128),
        help="longer inputs are cut to so many tokens (default: %(default)s, or fewer if the encoder takes fewer)",
    )
    group.add_argument("--pad_to_max_length", action="store_true", help="pad every sequence to --max_seq_length")
    group.add_argument("--num_workers", type=few, default=0, help="processes that make batches (default: %(default)s)")
    group.add_argument(
        "--token_cache_dir", default="data/cache", help="where large sets are kept tokenised (default: %(default)s)"
    )
    group.add_argument(
        "--no_token_cache",
        action="store_const",
        const=None,
        dest="token_cache_dir",
        help="tokenise anew, and keep nothing",
    )

    group = parser.add_argument_group("model")
    group.add_argument(
        "--load_model_path",
        default="bert-base-uncased",
        help="the encoder: a folder, an installed or fetched one, or a name on the Hub (default: %(default)s)",
    )
    group.add_argument("--model_type", help="optional, such as bert: an error if the checkpoint is of another type")
    group.add_argument(
        "--test_model_file",
        help="the saved model to evaluate or test: a .bin file of a run or of the release, or a folder",
    )
    group.add_argument("--cache_dir", help="where downloads from the Hub are kept")
    group.add_argument("--do_lower_case", action="store_true", help="lower-case the text (default: as the checkpoint)")
    group.add_argument(
        "--use_slow_tokenizer", action="store_true", help="use the pure Python tokenizer, where there is one"
    )
    group.add_argument(
        "--attn_implementation",
        choices=ATTENTION_IMPLEMENTATIONS,
        help="(default: eager for training on CPU and for encoders without sdpa, else sdpa)",
    )

    group = parser.add_argument_group("method")
    group.add_argument(
        "--method", choices=tuple(METHODS), default="asa", help="naive is plain fine-tuning (default: asa)"
    )
    group.add_argument(
        "--protocol",
        choices=PROTOCOLS,
        default="corrected",
        help="release repeats the authors' code, accidents included (default: corrected)",
    )
    group.add_argument(
        "--tau",
        type=non_negative,
        default=0.5,
        help="tau^2 weights the penalty on unmasked pairs; no effect on asa_budget, which has none (default: 0.5)",
    )
    group.add_argument(
        "--asa_budget",
        type=share,
        default=0.1,
        metavar="BETA",
        help="share of its keys that each query hides, with --method asa_budget (default: %(default)s)",
    )
    group.add_argument(
        "--asa_layers",
        type=layers,
        metavar="LAYERS",
        help="layers with an adversary, or with random masks: 0-3, or 0,2,5 (default: all)",
    )
    group.add_argument(
        "--asa_divergence_weight",
        type=non_negative,
        default=1.0,
        help="weight of ASA's divergence; 1 is as published (default: %(default)s)",
    )
    group.add_argument(
        "--adversary_learning_rate",
        type=non_negative,
        help="of asa and asa_budget, under the same schedule (default: --learning_rate)",
    )
    _add_baselines(parser)

    group = parser.add_argument_group("training")
    group.add_argument(
        "--train_batch_size", type=positive_int, help="examples per optimizer step (default: %(default)s)"
    )
    group.add_argument(
        "--gradient_accumulation_steps",
        type=positive_int,
        default=1,
        help="split each batch into so many parts, to save memory (default: 1)",
    )
    group.add_argument(
        "--gradient_checkpointing", action="store_true", help="less memory, more time: layers are computed twice"
    )
    group.add_argument("--eval_batch_size", type=positive_int, help="(default: %(default)s)")
    group.add_argument("--learning_rate", type=positive, help="(default: %(default)s)")
    group.add_argument("--num_train_epochs", type=positive_int, default=3, help="(default: %(default)s)")
    group.add_argument(
        "--max_train_steps", type=positive_int, help="optimizer steps in all, in place of --num_train_epochs"
    )
    group.add_argument(
        "--optimizer",
        choices=("adamw", "apex_fused_adam"),
        default="adamw",
        help="PyTorch's fused AdamW, or NVIDIA apex's, which must be built from source (default: %(default)s)",
    )
    group.add_argument("--lr_scheduler_type", choices=SCHEDULERS, default="linear", help="(default: linear)")
    group.add_argument("--warmup_proportion", type=proportion, help="share of all steps (default: %(default)s)")
    group.add_argument("--weight_decay", type=non_negative, help="not on biases and norms (default: %(default)s)")
    group.add_argument(
        "--max_grad_norm",
        type=non_negative,
        default=0.0,
        help="clip the gradients of encoder and adversaries, separately, to this norm; 0 is off (default: 0)",
    )
    group.add_argument(
        "--group_by_length",
        action="store_true",
        default=None,
        help="batch sequences of similar length (default, unless everything is padded to --max_seq_length)",
    )
    group.add_argument(
        "--no_group_by_length", action="store_false", dest="group_by_length", help="batch sequences at random"
    )
    group.add_argument("--seed", type=natural, default=42, help="(default: %(default)s)")

    group = parser.add_argument_group("device")
    group.add_argument("--no_cuda", action="store_true", help="stay on the CPU")
    group.add_argument("--fp16", action="store_true", help="float16; on a CPU bfloat16 if it has it, else float32")
    group.add_argument("--bf16", action="store_true", help="bfloat16")
    group.add_argument(
        "--fsdp", action="store_true", help="of several processes, each keeps a part of the model and its optimizer"
    )

    group = parser.add_argument_group("output")
    group.add_argument("--output_dir", default="model", help="folder of this run (default: %(default)s)")
    group.add_argument("--overwrite_output_dir", action="store_true", help="replace the results in --output_dir")
    group.add_argument(
        "--resume",
        nargs="?",
        const="latest",
        metavar="STATE",
        help="continue the interrupted run in --output_dir, from its latest good state or from STATE",
    )
    group.add_argument(
        "--resume_changed_code",
        action="store_true",
        help="resume even if the code or a library has changed since the state was saved",
    )
    group.add_argument(
        "--save_steps", type=positive_int, help="optimizer steps between states for --resume (default: one per epoch)"
    )
    group.add_argument(
        "--save_total_limit", type=positive_int, default=2, help="how many states are kept (default: %(default)s)"
    )
    group.add_argument(
        "--logging_steps", type=positive_int, default=50, help="optimizer steps between log lines (default: 50)"
    )
    group.add_argument(
        "--report_to",
        nargs="+",
        metavar="TRACKER",
        default="none",
        help=f"none, all that are installed, or one or more of {', '.join(trackers.RESUMED)} (default: none)",
    )
    group.add_argument(
        "--liveness_steps",
        type=natural,
        default=0,
        help="optimizer steps between measurements of whether the adversaries of asa or asa_budget do more than chance;"
        " 0 is off (default: 0)",
    )

    parser.set_defaults(**defaults)
    return parser


def _add_baselines(parser: argparse.ArgumentParser) -> None:
    """The settings of the methods that ASA is compared with; models/baselines.py says what they are."""
    group = parser.add_argument_group("other methods (each flag belongs to the method in its name)")
    settings = (
        ("random_mask_keep_rate", share, 0.9, "share of the query-key pairs that stay unmasked"),
        ("random_mask_budget", share, None, "instead, hide as many keys of each query as asa_budget with this share"),
        ("rdrop_alpha", non_negative, 1.0, "weight of the divergence"),
        ("freelb_steps", positive_int, 2, "passes with noise, per optimizer step"),
        ("freelb_lr", positive, 0.1, "step size of the noise"),
        ("freelb_init", non_negative, 1.0, "size of the initial noise"),
        ("freelb_max_norm", non_negative, 0.6, "upper bound of the noise; 0 for none"),
        (
            "freelb_embedding_norm",
            non_negative,
            4.4,
            "norm of the word embeddings (RoBERTa-large's) for which the three sizes above are given; they are scaled"
            " to those of the encoder; 0 does not scale",
        ),
        ("smart_weight", non_negative, 1.0, "weight of the divergence under noise"),
        ("smart_noise", non_negative, 1e-5, "standard deviation of the initial noise"),
        ("smart_step_size", positive, 1e-3, "largest component of a step of the noise"),
        ("smart_steps", positive_int, 1, "steps of the noise, per optimizer step"),
        ("smart_radius", non_negative, 0.0, "upper bound of the noise; 0 for none"),
        ("smart_bregman", non_negative, 1.0, "weight of the divergence from the averaged weights; 0 leaves it out"),
        ("smart_momentum", proportion, 0.999, "momentum of the averaged weights after the first tenth of the steps"),
        ("smart_early_momentum", proportion, 0.99, "momentum of the averaged weights in the first tenth of the steps"),
        ("r3f_weight", non_negative, 1.0, "weight of the divergence"),
        ("r3f_eps", positive, 1e-5, "range (uniform) or standard deviation (normal) of the noise"),
    )
    for name, kind, default, text in settings:
        group.add_argument(f"--{name}", type=kind, default=default, help=f"{text} (default: %(default)s)")
    group.add_argument(
        "--r3f_noise", choices=R3F_NOISES, default="uniform", help="its distribution (default: %(default)s)"
    )


# Script -> (flag, what its column holds), each guessed from the names of the columns where it is not given.
OWN_COLUMNS = {
    "run_sent_clas": (
        ("text_columns", "the text, or a,b for a pair of texts"),
        ("label_column", "the label, or the number to predict"),
    ),
    "run_multi_cho": (
        ("context_column", "the text that the question is about"),
        ("question_column", "the question, or the beginning of every choice"),
        ("choice_columns", "a column with lists of choices, or a,b,... with one choice each"),
        ("label_column", "the right choice: its number, letter or text"),
    ),
    "run_tok_clas": (("token_column", "a list of words"), ("tag_column", "a list with the tag of each word")),
}


def _add_own_data(parser: argparse.ArgumentParser, script: str) -> None:
    """The flags for data of the user's own; data/own.py says how they are read."""
    group = parser.add_argument_group("your own data, in place of a named task (docs/own_data.md)")
    forms = ", ".join(SUFFIXES[:-1])
    if script == "run_tok_clas":
        forms = "lists in .json, .jsonl or .parquet, else a word and its tag per line (CoNLL)"
    group.add_argument("--train_file", nargs="+", metavar="FILE", help=f"{forms}; several files are joined")
    group.add_argument(
        "--dev_file", nargs="+", metavar="FILE", help="same formats; the first file chooses the best epoch"
    )
    group.add_argument(
        "--test_file", nargs="+", metavar="FILE", help="same formats; labels are not needed for --do_test"
    )
    group.add_argument(
        "--dataset_name",
        metavar="NAME",
        help="in place of files: a data set on the Hub, or a folder with train.*, dev.*, test.* or saved by datasets",
    )
    group.add_argument("--dataset_config_name", metavar="NAME", help="which configuration, if the data set has several")
    group.add_argument(
        "--dev_fraction",
        type=share,
        help="without a dev set, the share of the training rows held out, chosen by --seed"
        f" (default: {own_flags.DEV_FRACTION:g})",
    )
    group.add_argument(
        "--predictions_format",
        choices=own_flags.FORMATS,
        help="of the predictions of a test file; jsonl has the probabilities of words too (default: tsv)",
    )
    for name, text in OWN_COLUMNS[script]:
        group.add_argument(f"--{name}", help=f"{text} (default: guessed from the columns' names)")
    if script == "run_sent_clas":
        group.add_argument("--regression", action="store_true", help="predict numbers, not classes")
    group.add_argument(
        "--metric",
        choices=own_flags.METRICS[script],
        help="the metric that chooses the best epoch (default: depends on the data)",
    )


def parse(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse and check what can be checked without reading a file; settles the defaults that depend on others.

    Raises:
        InputError: the arguments contradict each other.
    """
    args = parser.parse_args(argv)
    if "mlm_probability" in args:
        text_arguments.check(args)
    if not (args.do_train or args.do_eval or args.do_test):
        raise InputError("nothing to do: give --do_train, --do_eval or --do_test")
    args.test_model_file = args.test_model_file or None  # empty by default in the release
    if not args.output_dir:
        raise InputError("--output_dir is empty: name the folder of this run")
    if not args.load_model_path:
        raise InputError("--load_model_path is empty: name an encoder")
    if args.lr_scheduler_type == "polynomial" and args.learning_rate <= POLYNOMIAL_END:
        raise InputError(f"--learning_rate {args.learning_rate:g}: polynomial decay ends at {POLYNOMIAL_END:g}")
    if args.fp16 and args.bf16:
        raise InputError("--fp16 and --bf16 exclude each other: give one of them")
    if args.fsdp:
        _check_fsdp(args)
    if args.test_model_file is None and not args.do_train:
        flag = "--do_test" if args.do_test else "--do_eval"
        raise InputError(f"{flag} without --do_train needs --test_model_file, the checkpoint to use")
    if args.test_model_file is not None and args.do_train:
        raise InputError(
            "--test_model_file and --do_train exclude each other: after training, its own model is evaluated and tested"
        )
    if args.resume is not None and not args.do_train:
        raise InputError("--resume goes on with training: it needs --do_train")
    if args.resume is not None and args.overwrite_output_dir:
        raise InputError("--resume and --overwrite_output_dir exclude each other: go on, or start again")
    if args.train_batch_size < args.gradient_accumulation_steps:
        raise InputError(
            f"--train_batch_size {args.train_batch_size}: fewer examples than"
            f" --gradient_accumulation_steps {args.gradient_accumulation_steps} parts to split them into"
        )
    if args.test_model_file is not None and not Path(args.test_model_file).exists():
        raise InputError(f"--test_model_file {args.test_model_file}: no such file or folder")
    if args.test_model_file is not None:
        args.test_model_file = _best_of_run(args.test_model_file)
    if "dev_fraction" in args:
        own_flags.check(args)
    if args.eval_file is not None:
        _check_eval_file(args)
    if args.eval_masks is not None:
        _check_eval_masks(args)
    args.report_to = trackers.chosen(args.report_to)
    if args.optimizer == "apex_fused_adam":
        _check_apex(args)
    # The release pads everything to the full length, in random batches.
    args.pad_to_max_length = args.pad_to_max_length or args.protocol == "release"
    if args.group_by_length is None:
        args.group_by_length = not args.pad_to_max_length
    return args


def _best_of_run(path: str) -> str:
    """A checkpoint as given; where it is a whole run's folder, its best epoch.

    Raises:
        InputError: the run's folder has none.
    """
    folder, best = Path(path), Path(path) / "best"
    if not (folder / "results.json").is_file() or (folder / "config.json").is_file():
        return path
    if best.is_dir():
        return str(best)
    raise InputError(
        f"--test_model_file {path}: the folder of a run without best/, the model of its best epoch: it was cut off"
        " before its first epoch ended, or its models were removed (reproduce.py --keep_checkpoints keeps them); give"
        " another"
    )


def layers(text: str) -> list[int] | None:
    """The numbers in 0-3 or 0,2,5 or 0-3,8, each once and in order; None for all."""
    if text == "all":
        return None
    found: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"(\d{1,4})(?:-(\d{1,4}))?", part.strip())
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if first > last:
            raise argparse.ArgumentTypeError(f"{text!r} names no layers: give numbers as in 0-3 or 0,2,5, or all")
        found.update(range(first, last + 1))
    return sorted(found)


def _check_eval_file(args: argparse.Namespace) -> None:
    if args.do_train:
        raise InputError(
            "--eval_file and --do_train exclude each other: train first, then evaluate what was saved"
            " (--test_model_file)"
        )
    if not args.do_eval:
        raise InputError("--eval_file names what --do_eval is to score: add --do_eval")
    if args.eval_on != "dev":
        raise InputError(f"--eval_file and --eval_on {args.eval_on} exclude each other: give one of them")
    if not Path(args.eval_file).is_file():
        raise InputError(f"--eval_file {args.eval_file}: no such file")


def _check_eval_masks(args: argparse.Namespace) -> None:
    if not args.do_eval or args.do_train or args.do_test:
        raise InputError("--eval_masks is for the evaluation of a checkpoint: give it with --do_eval alone")
    if args.method not in ("asa", "asa_budget", "random_mask"):
        raise InputError(f"--eval_masks: --method {args.method} has no masks: give asa, asa_budget or random_mask")
    if (args.eval_masks == "random") != (args.method == "random_mask"):
        raise InputError(
            f"--eval_masks {args.eval_masks} and --method {args.method} exclude each other: random_mask goes with"
            " random, and the others with a checkpoint that has adversaries"
        )
    if args.eval_masks != "random" and not Path(args.eval_masks).is_file():
        raise InputError(f"--eval_masks {args.eval_masks}: no such file")


def _check_fsdp(args: argparse.Namespace) -> None:
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        raise InputError("--fsdp is for several processes: start them with torchrun, or leave it out")
    if args.fp16:
        raise InputError("--fsdp and --fp16 exclude each other: use --bf16, which needs no loss scale")
    if args.optimizer == "apex_fused_adam":
        raise InputError("--fsdp and --optimizer apex_fused_adam exclude each other: use --optimizer adamw")
    if args.do_train and args.method not in WITH_FSDP:
        raise InputError(f"--fsdp works with --method {' and '.join(WITH_FSDP)}, not {args.method}")


def _check_apex(args: argparse.Namespace) -> None:
    try:
        built = bool(importlib.util.find_spec("apex.optimizers") and importlib.util.find_spec("amp_C"))
    except Exception:  # whatever a package called apex does when it is imported
        built = False
    if not built:
        raise InputError(
            "--optimizer apex_fused_adam: NVIDIA apex with its CUDA extensions is not installed, and the package that"
            " pip calls apex is not it: build it from github.com/NVIDIA/apex, or leave the flag out"
        )
    import torch

    if args.no_cuda or not torch.cuda.is_available():
        raise InputError("--optimizer apex_fused_adam needs a GPU: leave the flag out")


def _number(kind: type, low: float, high: float, description: str, open_low: bool = False):
    def parse_number(text: str):
        try:
            value = float(text)
            value = kind(value) if kind(value) == value else math.nan  # 3.0 is a whole number
        except (ValueError, OverflowError):
            value = math.nan
        if not (low < value if open_low else low <= value) or not value <= high or math.isinf(value):
            raise argparse.ArgumentTypeError(f"{text!r} is not {description}")
        return value

    return parse_number


# More than these, no run can mean.
positive_int = _number(int, 1, 10**12, "a whole number from 1 to 10^12")
few = _number(int, 0, 1024, "a whole number from 0 to 1024")
natural = _number(int, 0, 2**32 - 1, "a whole number from 0 to 4294967295")
positive = _number(float, 0, math.inf, "a number above 0", open_low=True)
non_negative = _number(float, 0, math.inf, "a number from 0")
proportion = _number(float, 0, 1, "a number from 0 to 1")
share = _number(float, 0, 1, "a number above 0, up to 1", open_low=True)
