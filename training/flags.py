"""The flags of the scripts, in groups, and the number types that they accept."""

import argparse
import math
import re
from collections.abc import Iterable

from data import own_flags
from data.columns import SUFFIXES
from models.methods import (
    ASA_BUDGET,
    ATTENTION_IMPLEMENTATIONS,
    METHODS,
    PROTOCOLS,
    R3F_NOISES,
    RANDOM_MASK_KEEP_RATE,
    TAU,
)
from training import trackers
from utils import Parser

# The schedules of the release, which need no settings of their own.
SCHEDULERS = ("linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup")


class Default(int):
    """A default, not typed by the user, which is lowered if the encoder accepts less."""


def build_parser(description: str, tasks: Iterable[str], **defaults) -> Parser:
    """Build the parser of one script.

    Args:
        tasks: the names of the script's tasks, for the help text.
        defaults: the script's own default values.
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
        help="score a checkpoint under masks: for asa and asa_budget, FILE is the checkpoint with the adversaries;"
        " for random_mask, random draws the masks with --seed",
    )
    group.add_argument(
        "--max_seq_length",
        type=positive_int,
        default=Default(128),
        help="truncate inputs to this many tokens (default: %(default)s, or the encoder's maximum if that is less)",
    )
    group.add_argument("--pad_to_max_length", action="store_true", help="pad every sequence to --max_seq_length")
    group.add_argument("--num_workers", type=few, default=0, help="processes that make batches (default: %(default)s)")
    group.add_argument(
        "--token_cache_dir", default="data/cache", help="folder for large tokenised data sets (default: %(default)s)"
    )
    group.add_argument(
        "--no_token_cache",
        action="store_const",
        const=None,
        dest="token_cache_dir",
        help="tokenise again in every run, and store nothing",
    )

    group = parser.add_argument_group("model")
    group.add_argument(
        "--load_model_path",
        default="bert-base-uncased",
        help="the encoder: a folder, an installed or fetched encoder, or a name on the Hub (default: %(default)s)",
    )
    group.add_argument(
        "--model_type", help="optional, such as bert: stop with an error if the checkpoint has another type"
    )
    group.add_argument(
        "--test_model_file",
        help="the saved model to evaluate or test: a .bin file of a run or of the release, or a folder",
    )
    group.add_argument("--cache_dir", help="where downloads from the Hub are kept")
    group.add_argument(
        "--do_lower_case", action="store_true", help="lower-case the text (default: as in the checkpoint)"
    )
    group.add_argument(
        "--use_slow_tokenizer", action="store_true", help="use the pure Python tokenizer, if there is one"
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
        help="release follows the authors' code, including its accidents (default: corrected)",
    )
    group.add_argument(
        "--tau",
        type=non_negative,
        default=TAU,
        help="tau^2 is the weight of the penalty on unmasked pairs; asa_budget has no penalty (default: %(default)s)",
    )
    group.add_argument(
        "--asa_budget",
        type=share,
        default=ASA_BUDGET,
        metavar="BETA",
        help="share of each query's keys that --method asa_budget masks (default: %(default)s)",
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
        help="weight of the divergence of asa, asa_budget and random_mask; 1 is as published (default: %(default)s)",
    )
    group.add_argument(
        "--adversary_learning_rate",
        type=non_negative,
        help="learning rate of the adversaries of asa and asa_budget; warm-up and decay are the model's (default:"
        " --learning_rate)",
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
        help="split each batch into this many parts, to save memory (default: 1)",
    )
    group.add_argument(
        "--gradient_checkpointing", action="store_true", help="save memory by computing the layers twice"
    )
    group.add_argument("--eval_batch_size", type=positive_int, help="(default: %(default)s)")
    group.add_argument("--learning_rate", type=positive, help="(default: %(default)s)")
    group.add_argument("--num_train_epochs", type=positive_int, default=3, help="(default: %(default)s)")
    group.add_argument(
        "--max_train_steps", type=positive_int, help="total optimizer steps, instead of --num_train_epochs"
    )
    group.add_argument(
        "--optimizer",
        choices=("adamw", "apex_fused_adam"),
        default="adamw",
        help="PyTorch's fused AdamW, or NVIDIA apex's, which must be built from source (default: %(default)s)",
    )
    group.add_argument("--lr_scheduler_type", choices=SCHEDULERS, default="linear", help="(default: linear)")
    group.add_argument("--warmup_proportion", type=proportion, help="share of all steps (default: %(default)s)")
    group.add_argument(
        "--weight_decay", type=non_negative, help="not applied to biases and norms (default: %(default)s)"
    )
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
    group.add_argument("--fp16", action="store_true", help="float16; on a CPU, bfloat16 if supported, else float32")
    group.add_argument("--bf16", action="store_true", help="bfloat16")
    group.add_argument("--fsdp", action="store_true", help="shard the model and its optimizer over the processes")

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
        help="every so many optimizer steps, measure whether the adversaries of asa or asa_budget do more than random"
        " masks; 0 is off (default: 0)",
    )

    parser.set_defaults(**defaults)
    return parser


def _add_baselines(parser: argparse.ArgumentParser) -> None:
    """Add the settings of the methods that ASA is compared with; models/baselines.py explains them."""
    group = parser.add_argument_group("other methods (each flag belongs to the method in its name)")
    settings = (
        ("random_mask_keep_rate", share, RANDOM_MASK_KEEP_RATE, "share of the query-key pairs that stay unmasked"),
        ("random_mask_budget", share, None, "instead, mask as many keys per query as asa_budget with this share"),
        ("rdrop_alpha", non_negative, 1.0, "weight of the divergence"),
        ("freelb_steps", positive_int, 2, "passes with noise, per optimizer step"),
        ("freelb_lr", positive, 0.1, "step size of the noise"),
        ("freelb_init", non_negative, 1.0, "size of the initial noise"),
        ("freelb_max_norm", non_negative, 0.6, "upper bound of the noise; 0 for none"),
        (
            "freelb_embedding_norm",
            non_negative,
            4.4,
            "norm of the word embeddings (RoBERTa-large's) that the three sizes above are meant for; they are scaled to"
            " the encoder's norm; 0 turns scaling off",
        ),
        ("smart_weight", non_negative, 1.0, "weight of the divergence under noise"),
        ("smart_noise", non_negative, 1e-5, "standard deviation of the initial noise"),
        ("smart_step_size", positive, 1e-3, "largest component of a step of the noise"),
        ("smart_steps", positive_int, 1, "steps of the noise, per optimizer step"),
        ("smart_radius", non_negative, 0.0, "upper bound of the noise; 0 for none"),
        ("smart_bregman", non_negative, 1.0, "weight of the divergence from the averaged model; 0 leaves it out"),
        ("smart_momentum", proportion, 0.999, "momentum of the averaged weights after the first tenth of the steps"),
        ("smart_early_momentum", proportion, 0.99, "momentum of the averaged weights in the first tenth of the steps"),
        ("r3f_weight", non_negative, 1.0, "weight of the divergence"),
        ("r3f_eps", positive, 1e-5, "range (uniform) or standard deviation (normal) of the noise"),
    )
    for name, kind, default, text in settings:
        group.add_argument(f"--{name}", type=kind, default=default, help=f"{text} (default: %(default)s)")
    group.add_argument(
        "--r3f_noise", choices=R3F_NOISES, default="uniform", help="distribution of the noise (default: %(default)s)"
    )


# Script -> (flag, content of its column). A column that is not given is guessed from the column names.
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


def add_own_data(parser: argparse.ArgumentParser, script: str) -> None:
    """Add the flags for the user's own data; data/own.py describes how they are read."""
    group = parser.add_argument_group("your own data, in place of a named task (docs/own_data.md)")
    forms = ", ".join(SUFFIXES[:-1])
    if script == "run_tok_clas":
        forms = "lists in .json, .jsonl or .parquet, else a word and its tag per line (CoNLL)"
    group.add_argument("--train_file", nargs="+", metavar="FILE", help=f"{forms}; several files are joined")
    group.add_argument(
        "--dev_file", nargs="+", metavar="FILE", help="same formats; the first file chooses the best epoch"
    )
    group.add_argument("--test_file", nargs="+", metavar="FILE", help="same formats; --do_test needs no labels")
    group.add_argument(
        "--dataset_name",
        metavar="NAME",
        help="instead of files: a data set on the Hub, or a folder with train.*, dev.*, test.* or saved by datasets",
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
        help="format of the test predictions; only jsonl has the probabilities of words (default: tsv)",
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


def layers(text: str) -> list[int] | None:
    """Parse 0-3 or 0,2,5 or 0-3,8 into sorted layer numbers without repeats; None for "all"."""
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


# The upper bounds are beyond any meaningful run.
positive_int = _number(int, 1, 10**12, "a whole number from 1 to 10^12")
few = _number(int, 0, 1024, "a whole number from 0 to 1024")
natural = _number(int, 0, 2**32 - 1, "a whole number from 0 to 4294967295")
positive = _number(float, 0, math.inf, "a number above 0", open_low=True)
non_negative = _number(float, 0, math.inf, "a number from 0")
proportion = _number(float, 0, 1, "a number from 0 to 1")
share = _number(float, 0, 1, "a number above 0, up to 1", open_low=True)
