"""The files of a run in `--output_dir`."""

import argparse
import contextlib
import functools
import json
import os
import platform
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import torch
from accelerate import Accelerator
from filelock import FileLock, Timeout

from data.own import recorded_task
from data.own_flags import FORMATS
from data.predictions import file_name
from training.arguments import SETTLED, execution
from training.card import is_card
from training.state import damage, latest_good
from training.trackers import EVENTS_SUFFIX
from training.versions import versions
from utils import InputError, as_typed, file_sha256, finite, remove_folder, write_json, write_text, writing

# The names that a run writes in its folder. Files with other names are not the run's and are never removed.
CHECKPOINT = re.compile(r"\d+_pytorch_model\.bin")
RECORDS = re.compile(rf"results\.json|eval_results\.txt|metrics\.jsonl|trackers\.json|best|{CHECKPOINT.pattern}")
STATE = re.compile(r"\d{8,}(-evaluated)?")
PREDICTIONS = re.compile(r".+\.parquet")
BESIDE_TRAINING = "evaluation-"  # prefix of predictions that are not from training
EVENTS = re.compile(rf"events\.out\.tfevents\..+{re.escape(EVENTS_SUFFIX)}")
# The files that transformers writes into best/, which is always replaced as a whole.
EXPORTED = re.compile(
    r"(config|generation_config|tokenizer|tokenizer_config|special_tokens_map|added_tokens)\.json"
    r"|model.*\.safetensors(\.index\.json)?|vocab\.\w+|merges\.txt|bpe\.codes|word_(shape|pronunciation)\.json"
    r"|.+\.model|.+\.jinja"
)
# Temporary names of a file that is being written (utils.atomic_file), and of the file that it replaces.
HIDDEN = re.compile(r"^\.(?P<name>.+)\.(tmp|old)$")
# The arguments that name files or caches that a run reads.
INPUTS = (
    *("load_model_path", "test_model_file", "data_dir", "eval_file", "eval_masks", "cache_dir"),
    "token_cache_dir",
    *("train_file", "dev_file", "test_file", "dataset_name"),
)


class RunFolder:
    """The files of one run.

    results.json       arguments, versions, device, which steps were taken with which versions, a record per epoch, the
                       best epoch, whether the run has finished
    eval_results.txt   the printed line of each epoch
    metrics.jsonl      a record per logging step
    best/              the best epoch as a stock Hugging Face folder
    predictions/       label and logits of each evaluated row, a file per set
    <epoch>_pytorch_model.bin, <TEST SET>.tsv, evaluation.json (an evaluation without training)
    states/            until the run has finished: the states to resume it from
    trackers.json      with --report_to: each tracker's run id, and the last step and epoch reported to it
    tensorboard/       with --report_to tensorboard
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.results = self.path / "results.json"
        self.lines = self.path / "eval_results.txt"
        self.metrics = self.path / "metrics.jsonl"
        self.trackers = self.path / "trackers.json"
        self.best = self.path / "best"
        self.predictions = self.path / "predictions"
        self.evaluation = self.path / "evaluation.json"
        self.states = self.path / "states"
        self.tensorboard = self.path / "tensorboard"
        self._lock = FileLock(self.path / ".lock")

    def checkpoint(self, epoch: int) -> Path:
        return self.path / f"{epoch}_pytorch_model.bin"

    def predictions_of(self, set_name: str, training: bool) -> Path:
        """The predictions file of a set; an evaluation does not replace that of a training run in the same folder."""
        beside = not training and self.results.exists()
        return self.predictions / f"{BESIDE_TRAINING * beside}{file_name(set_name)}"

    def state(self, step: int, evaluated: bool) -> Path:
        return self.states / f"{step:08d}{'-evaluated' if evaluated else ''}"

    def saved_states(self) -> list[Path]:
        """The states of this run, oldest first."""
        found = [path for path in _named(self.states.glob("*"), STATE.fullmatch) if not HIDDEN.fullmatch(path.name)]
        return sorted(found, key=_age)

    def submission(self, name: str, form: str | None = None) -> Path:
        return self.path / f"{name}.{form or FORMATS[0]}"

    def submissions(self, task, forms: Iterable[str | None] = FORMATS) -> list[Path]:
        """The paths of a task's predictions files, existing or not; only the user's own data has several formats."""
        names = [data_set.submission for data_set in task.submissions.values()]
        return [self.submission(name, form) for name in names for form in (forms if task.own else FORMATS[:1])]

    def replaced(self, args: argparse.Namespace, task) -> list[Path]:
        """The existing files that a run with these arguments overwrites, or that describe weights which it replaces.

        If there are any, a run refuses the folder; `--overwrite_output_dir` removes them. `log.txt` is not among them:
        a grid appends to it.
        """
        tasks = [task] if args.do_test or args.do_train else []
        names = {self.evaluation.name} if args.do_eval or args.do_train else set()
        if args.do_train:  # predictions on other tasks' test sets, from the weights that are replaced
            known = [_arguments(record) for record in (self.results, self.evaluation)]
            tasks += filter(None, (recorded_task(of) for of in known if of.get("do_test")))
        forms = FORMATS if args.do_train else (getattr(args, "predictions_format", None),)
        names |= {path.name for each in tasks for path in self.submissions(each, forms)}
        found = _named(self.path.glob("*"), names.__contains__)
        if args.do_train or args.do_eval:
            own = BESIDE_TRAINING if self.results.exists() and not args.do_train else ""
            predictions = _named(self.predictions.glob("*"), PREDICTIONS.fullmatch)
            found += [path for path in predictions if path.name.removeprefix(".").startswith(own)]
        if args.do_train:
            found += _named(self.path.glob("*"), RECORDS.fullmatch)
            found += _named(self.states.glob("*"), STATE.fullmatch)
            found += _named(self.tensorboard.glob("*"), EVENTS.fullmatch)
            found += self._scores_below()
        return found

    def _scores_below(self) -> list[Path]:
        """Files that evaluations of this run's weights have written in subfolders."""
        found = []
        for path in sorted(self.path.glob(f"*/{self.evaluation.name}")):
            args = _arguments(path)
            if self._is_of_here(args.get("test_model_file")):
                task = recorded_task(args)
                scored = {"do_train": False, "do_eval": True, "do_test": task and args.get("do_test")}
                scored["predictions_format"] = args.get("predictions_format")
                found += RunFolder(path.parent).replaced(argparse.Namespace(**scored), task)
        return found

    def _is_of_here(self, checkpoint: str | None) -> bool:
        """Whether a recorded checkpoint is in this folder; if it no longer exists, whether its name is that of one."""
        if not isinstance(checkpoint, str):
            return False
        path, here = Path(checkpoint).resolve(), self.path.resolve()
        if here in path.parents:
            name = path.relative_to(here).parts[0]
        elif path.exists():
            return False
        else:
            name = path.name
        return name in (self.best.name, self.states.name) or CHECKPOINT.fullmatch(name) is not None

    def check(self, args: argparse.Namespace, task, data_files: Iterable[Path] = ()) -> None:
        """Raise `InputError` if this run may not use the folder as it is; nothing is written.

        The folder cannot be written (better found now than after an epoch), has results that the run would replace
        without permission or that it needs itself, or does not have the run to be resumed.

        Args:
            data_files: the data files that the run reads.
        """
        try:
            str(self.path).encode()
        except UnicodeEncodeError:  # pyarrow and safetensors take no other names
            raise InputError(f"--output_dir {self.path}: the name is not valid UTF-8: give another") from None
        there = next(path for path in (self.path.absolute(), *self.path.absolute().parents) if path.exists())
        if not there.is_dir():
            raise InputError(f"--output_dir {self.path}: the file {there.name} is in the way")
        if not os.access(there, os.W_OK | os.X_OK):
            raise InputError(f"--output_dir {self.path}: cannot be written (Permission denied in {there})")
        resolved = self.path.resolve()
        for place in (resolved, *resolved.parents):
            other = RunFolder(place.parent)
            if place in (other.best, other.states, other.predictions) and other.results.exists():
                raise InputError(
                    f"--output_dir {self.path}: {place.name}/ is of the run in {place.parent}, which may replace or"
                    " remove it: give another folder"
                )
        for folder in (self.states, self.predictions, self.tensorboard) if args.do_train else ():
            if folder.exists() and not folder.is_dir():
                raise InputError(f"--output_dir {self.path}: the file {folder.name} is in the way")
        if args.resume:
            self._check_resumed(args)
            return
        replaced = self.replaced(args, task)
        if args.overwrite_output_dir:
            self._check_removal(args, replaced, data_files)
            return
        # An unfinished file is not a result, and is replaced.
        used = [path for path in replaced if path.suffix != ".tmp"]
        if used:
            first = self.results if self.results in used else used[0]
            unfinished = args.do_train and self.results.exists() and self.saved_states()
            raise InputError(
                f"--output_dir {self.path}: it has results already ({first.relative_to(self.path)}): give another"
                f" folder, {'--resume to go on with them, ' if unfinished else ''}or --overwrite_output_dir to replace"
                " them"
            )

    def _check_removal(self, args: argparse.Namespace, removed: list[Path], data_files: Iterable[Path]) -> None:
        """Raise `InputError` if the removal would hit a file that the run reads, or one that no run wrote."""
        inputs: list[tuple[str, Path]] = []
        for name in INPUTS:
            value = getattr(args, name, None) or []
            for given in [value] if isinstance(value, str) else value:
                paths = [Path(given)]
                if name in ("load_model_path", "test_model_file"):  # may be a folder of links
                    paths += sorted(path for path in Path(given).glob("*") if path.is_symlink())
                inputs += [(f"--{name} {given}", path) for path in paths]
        inputs += [(f"--data_dir {args.data_dir}: {path}", path) for path in data_files]
        places = {path.resolve(): path for path in removed}
        for said, path in inputs:
            for place in (path.resolve(), *path.resolve().parents):
                if place in places:
                    raise InputError(
                        f"{said}: this run needs it, and --overwrite_output_dir would remove {places[place]}:"
                        " give another --output_dir"
                    )
        if args.do_train:
            self._check_best()

    def _check_best(self) -> None:
        """Raise `InputError` if best/, which is always replaced as a whole, has files that no run wrote."""
        for file in sorted(self.best.glob("*")) if not self.best.is_symlink() else ():
            if not EXPORTED.fullmatch(file.name) and not is_card(file):
                raise InputError(
                    f"--output_dir {self.path}: {file} is not a file that a run writes, and would be removed with"
                    " best/: move it away"
                )

    def _check_resumed(self, args: argparse.Namespace) -> None:
        self._check_best()
        begun = self.read_results()
        if begun is None:
            raise InputError(f"--resume: there is no run in --output_dir {self.path}: to begin one, leave --resume out")
        # As they would be read back from a file.
        given = json.loads(json.dumps(vars(args)))
        compared = given.keys() & begun["args"].keys() - execution(given)
        for name in sorted(compared, key=lambda name: (name in SETTLED, name)):
            if given[name] != begun["args"][name]:
                now, then = (as_typed(name, args[name]) for args in (given, begun["args"]))
                raise InputError(
                    f"{now}: the run in {self.path} began with {then}: resume it with that, or begin another in another"
                    " --output_dir"
                )

    def check_same(self, record: dict) -> None:
        """Raise `InputError` if the run to be resumed began on another kind of device, or with other data.

        Args:
            record: what `describe` returns now.
        """
        now, then = _conditions(record), _conditions(self.read_results() or {})
        if now is None or then is None:
            raise InputError(f"{self.results}: not the results file of a run")
        for name, value in now.items():
            if value != then[name]:
                raise InputError(
                    f"--resume: the {name} is {value}, and the run in {self.path} began with {then[name]}:"
                    " resume it with that"
                )

    def told(self) -> tuple[int, int]:
        """The last logging step and the last epoch's last step that are recorded in the files; 0 if there is none."""
        # The last line may be incomplete.
        lines = self.metrics.read_text(encoding="utf-8", errors="replace") if self.metrics.exists() else ""
        steps = re.findall(r'^\{"step": (\d+),', lines, re.MULTILINE)
        epochs = (self.read_results() or {}).get("epochs") or [{}]
        return int(steps[-1]) if steps else 0, epochs[-1].get("global_step", 0)

    def state_to_resume(self, resume: str) -> Path | None:
        """The state that `--resume` refers to, verified; None if the run was cut off before it saved any.

        Raises:
            InputError: it is not a state of this run, or is damaged.
        """
        if resume == "latest":
            return latest_good(self.saved_states())
        path = Path(resume)
        if path.resolve() not in [state.resolve() for state in self.saved_states()]:
            raise InputError(f"--resume {path}: not a state in {self.states}")
        if damaged := damage(path):
            raise InputError(f"--resume {path}: {damaged}: --resume alone takes the latest good one")
        return path

    def read_results(self) -> dict | None:
        """The content of the results file; None if there is none.

        Raises:
            InputError: it is not the results file of a run.
        """
        if not self.results.exists():
            return None
        try:
            results = json.loads(self.results.read_text(encoding="utf-8"))
            results["args"].keys(), [epoch.keys() for epoch in results["epochs"]]
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            raise InputError(f"{self.results}: not the results file of a run") from None
        return results

    def open(self, args: argparse.Namespace, task) -> None:
        """Make the folder, lock it, and with `--overwrite_output_dir` remove the files that this run replaces.

        Raises:
            InputError: the folder cannot be written, another run is using it, or `check` fails.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(timeout=0)
            self.check(args, task)
            if args.resume and (self.read_results() or {}).get("finished"):  # by another process, since this one began
                raise InputError(f"--resume: the run in {self.path} has finished in the meantime")
            if args.overwrite_output_dir:
                _remove(self.replaced(args, task), self.path)
        except Timeout:
            raise InputError(
                f"--output_dir {self.path}: another run is at work in it: wait for its end, or give another folder"
            ) from None
        except OSError as error:
            raise InputError(f"--output_dir {self.path}: cannot be written ({error.strerror})") from None

    @contextlib.contextmanager
    def last_state_named(self) -> Iterator[None]:
        """Context in which error messages also name the state from which the run can be resumed."""
        try:
            yield
        except InputError as error:
            states = self.saved_states()
            after = (
                f"the last good state is {states[-1]}: --resume goes on from it" if states else "no state is saved yet"
            )
            raise InputError(f"{error}; {after}") from error

    def drop_states_after(self, path: Path | None) -> None:
        """Remove the states after the one that the run is resumed from: they are damaged or were passed over."""
        for later in self.saved_states():
            if path is None or _age(later) > _age(path):
                remove_folder(later)

    def keep_states(self, limit: int) -> None:
        """Remove all but the latest `limit` states."""
        for path in self.saved_states()[:-limit]:
            remove_folder(path)

    def finish(self) -> None:
        """Record that the training run is complete, and remove the files that only an unfinished run needs."""
        results = self.read_results()
        assert results is not None  # written before the first step
        self.write_results(results | {"finished": True})
        _remove(_named(self.states.glob("*"), STATE.fullmatch), self.path)

    def close(self) -> None:
        """Release the lock, so that other runs may use the folder."""
        if self._lock.is_locked:
            Path(self._lock.lock_file).unlink(missing_ok=True)
            self._lock.release()

    def write_lines(self, lines: Iterable[str]) -> None:
        write_text(self.lines, "".join(f"{line}\n" for line in lines))

    def write_metrics(self, records: Iterable[dict]) -> None:
        write_text(self.metrics, "".join(map(_line, records)))

    def add_metrics(self, record: dict) -> None:
        with writing(self.metrics), open(self.metrics, "a", encoding="utf-8") as file:
            file.write(_line(record))

    def write_results(self, record: dict) -> None:
        write_json(self.results, record)

    def write_evaluation(self, record: dict) -> None:
        write_json(self.evaluation, record)


def _named(paths: Iterable[Path], belongs: Callable[[str], object]) -> list[Path]:
    """The paths whose names belong to a run, including temporary names of files being written or replaced."""
    return sorted(path for path in paths if belongs(HIDDEN.sub(r"\g<name>", path.name)))


def _remove(paths: Iterable[Path], folder: Path) -> None:
    """Remove files and folders, and then the folders below `folder` that have become empty."""
    parents: set[Path] = set()
    for path in paths:
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)
        parents.update(parent for parent in path.parents if folder in parent.parents)
    for parent in sorted(parents, key=lambda path: -len(path.parts)):
        with contextlib.suppress(OSError):  # it has other files
            parent.rmdir()


def _arguments(record: Path) -> dict:
    """The arguments recorded in a results file; none if it cannot be read."""
    try:
        args = json.loads(record.read_text(encoding="utf-8"))["args"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return args if isinstance(args, dict) else {}


def _line(record: dict) -> str:
    return json.dumps(finite(record), allow_nan=False) + "\n"


def describe(args: argparse.Namespace, accelerator: Accelerator, examples: dict[str, int]) -> dict:
    """The head of a results file: every argument, device and processes, the versions, and the number of examples."""
    return {
        "args": vars(args),
        "versions": versions(),
        "device": _device(accelerator.device),
        "processes": accelerator.num_processes,
        "precision": {"no": "fp32"}.get(accelerator.mixed_precision, accelerator.mixed_precision),
        "examples": examples,
    }


def _conditions(record: dict) -> dict | None:
    """What a resumed run shares with its beginning, from the head of a results file; None if it is not such a file."""
    try:
        rows = {name: record["examples"].get(name) for name in ("train", "eval")}
        return {"precision": record["precision"], "device": record["device"][:4], "number of rows": rows}
    except (KeyError, TypeError, AttributeError):
        return None


def encoder_weights(source: str, begun: dict | None = None) -> dict[str, str]:
    """The results file's entry on the weights that training starts from; empty if they are not in a folder.

    Args:
        begun: the results of the run that is resumed: its encoder may have changed since.
    """
    if begun is not None:
        return {name: begun[name] for name in ("encoder_sha256",) if name in begun}
    path = Path(source, "model.safetensors")
    return {"encoder_sha256": file_sha256(path)} if path.is_file() else {}


@functools.cache
def _age(state: Path) -> tuple[int, bool]:
    """The step of a state, and whether it was saved after the evaluation."""
    step, _, evaluated = state.name.partition("-")
    return int(step), bool(evaluated)


def _device(device: torch.device) -> str:
    if device.type == "cuda":
        return f"cuda: {torch.cuda.get_device_name(device)}"
    if device.type == "cpu":
        name = torch.cpu.get_capabilities().get("cpu_name") or platform.processor()
        return f"cpu: {name}, {torch.get_num_threads()} threads"
    return device.type
