"""Arguments from files: `--config FILE.yaml`, and `--args_from RUN/results.json`, the arguments of a recorded run.

A file's arguments are put before the command line, so that the same checks apply and typed flags override them.
"""

import argparse
import difflib
import json
from collections.abc import Sequence
from pathlib import Path

from training.saved_settings import as_now
from utils import InputError, Parser, log

# Not taken from a recorded run: where it was, how it was continued, and over how many processes it was sharded.
NOT_TAKEN = {
    *("output_dir", "overwrite_output_dir", "resume", "resume_changed_code"),
    *("config", "args_from", "test_model_file", "fsdp"),
}
# Groups of arguments: one of them on the command line replaces all of them in a file.
TOGETHER = (
    *(("do_train", "do_eval", "do_test"), ("fp16", "bf16"), ("eval_on", "eval_file")),
    *(("dev_file", "dev_fraction"), ("dev_file", "eval_file")),
    *((name, "dataset_name") for name in ("train_file", "dev_file", "test_file")),
    *(("num_train_epochs", "max_train_steps"), ("random_mask_keep_rate", "random_mask_budget")),
)
# Argument -> arguments whose defaults depend on it: a recorded run has the values that followed from its own argument.
FOLLOWING = {
    "protocol": ("pad_to_max_length", "group_by_length"),
    "pad_to_max_length": ("group_by_length",),
    "load_model_path": ("model_type", "attn_implementation"),
    "no_cuda": ("attn_implementation",),
    "dataset_name": ("task_name", "dataset_config_name", "dev_fraction"),  # by default, data give the task its name
    "train_file": ("task_name", "dataset_config_name", "stream_train_rows", "stream_dev_rows"),
    **dict.fromkeys(("dev_file", "test_file"), ("dataset_config_name", "stream_train_rows", "stream_dev_rows")),
}


def add_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("arguments from files (flags on the command line override them)")
    group.add_argument("--config", metavar="FILE.yaml", help="arguments and their values, as in tau: 0.3")
    group.add_argument("--args_from", metavar="RUN/results.json", help="the arguments of a recorded run")


def with_files(parser: argparse.ArgumentParser, argv: Sequence[str]) -> list[str]:
    """The command line, preceded by the arguments of the files that it names.

    Raises:
        InputError: a file cannot be read, or names an unknown argument.
    """
    finder = Parser(prog=parser.prog, add_help=False, allow_abbrev=False)
    for flag in ("--config", "--args_from"):
        finder.add_argument(flag)
    found, _ = finder.parse_known_args(argv)
    flags = {part.partition("=")[0] for part in argv}
    given = {action.dest for action in parser._actions if flags & set(action.option_strings)}
    before: list[str] = []
    if found.config is not None:
        configured = _configured(Path(found.config))
        before = _flags(parser, configured, _replaced(given), found.config)
        _tell_replaced(configured, given, f"--config {found.config}")
        given |= configured.keys()
    if found.args_from is not None:
        recorded = _recorded(Path(found.args_from), parser)
        before = [*_flags(parser, recorded, _replaced(given), found.args_from), *before]
        _tell_replaced(recorded, given, f"--args_from {found.args_from}")
    return [*before, *argv]


def _replaced(given: set[str]) -> set[str]:
    """The given arguments, and the file arguments that they override."""
    replaced = given.union(*(group for group in TOGETHER if given & set(group)))
    return replaced.union(*(FOLLOWING[name] for name in given & FOLLOWING.keys()))


def _tell_replaced(values: dict, given: set[str], origin: str) -> None:
    """Log which arguments of a file are not used, although nobody typed them, because of others that were."""
    left_out = sorted(name for name in _replaced(given) - given if values.get(name))
    if left_out:
        log.info(f"{origin}: not used, because of other arguments: {', '.join(left_out)}")


def _recorded(path: Path, parser: argparse.ArgumentParser) -> dict:
    path = path / "results.json" if path.is_dir() else path
    try:
        args = as_now(json.loads(path.read_text(encoding="utf-8"))["args"])
    except OSError as error:
        raise InputError(f"--args_from {path}: cannot be read ({error.strerror})") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise InputError(f"--args_from {path}: not the results.json of a run") from None
    args = {name: value for name, value in args.items() if name not in NOT_TAKEN}
    known = {action.dest for action in parser._actions}
    if unknown := sorted(args.keys() - known):
        log.info(f"--args_from {path}: left out, as this script does not have them: {', '.join(unknown)}")
    return {name: value for name, value in args.items() if name in known}


def _configured(path: Path) -> dict:
    import yaml  # imported only if there is such a file

    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"--config {path}: cannot be read ({error.strerror})") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"--config {path}: not valid YAML ({' '.join(str(error).split())})") from None
    if not isinstance(values, dict):
        raise InputError(f"--config {path}: names of arguments with their values are expected, as in `tau: 0.3`")
    for name in ("config", "args_from"):
        if name in values:
            raise InputError(f"--config {path}: {name} names a further file: give it on the command line")
    return {str(name): value for name, value in values.items()}


def _flags(parser: argparse.ArgumentParser, values: dict, given: set[str], origin: str) -> list[str]:
    """The flags to type for these values, without the arguments that are given."""
    actions: dict[str, list[argparse.Action]] = {}
    for action in parser._actions:
        actions.setdefault(action.dest, []).append(action)
    flags: list[str] = []
    for name, value in values.items():
        switch = next((action for action in parser._actions if f"--{name}" in action.option_strings), None)
        if name not in actions and switch is not None and isinstance(value, bool):  # no_token_cache: true
            flags += [f"--{name}"] * (value and switch.dest not in given)
            continue
        if name not in actions:
            near = difflib.get_close_matches(name, actions, n=1)
            raise InputError(f"{origin}: {name}: no such argument{f'; did you mean {near[0]}?' if near else ''}")
        if name in given:
            continue
        if value is None:  # the default, or set by a switch
            constant = [action for action in actions[name] if isinstance(action, argparse._StoreConstAction)]
            flags += [action.option_strings[0] for action in constant if action.const is None]
            continue
        if isinstance(value, bool):
            switches = [action for action in actions[name] if action.nargs == 0]
            if not switches:
                raise InputError(f"{origin}: {name}: a value is expected, not {str(value).lower()}")
            flags += [action.option_strings[0] for action in switches if action.const is value]
            continue
        flag = actions[name][0].option_strings[0]
        if isinstance(value, list) and actions[name][0].nargs in ("+", "*"):
            flags += [flag, *map(str, value)]
        else:
            flags.append(f"{flag}={','.join(map(str, value)) if isinstance(value, list) else value}")
    return flags
