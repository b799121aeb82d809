"""A grid of runs, started one after another or in parallel, which can be continued after any interruption.

Each run has its own process. Finished runs are skipped, interrupted runs are resumed, and a failed run does not stop
the others.
"""

import contextlib
import datetime
import itertools
import os
import re
import shlex
import shutil
import signal
import statistics
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from filelock import FileLock, Timeout
from tqdm import tqdm

from data.task_kinds import Recipe
from experiments.plan import Planned, command_of, state
from experiments.records import PLAN, read_plan, read_results
from utils import InputError, Interrupted, StopSignals, counted, log, reason, short, write_json, write_text

# Plain fine-tuning, in examples per second, used if no finished run gives a better estimate.
ROUGH_RATES = {"a CPU": 50, "a GPU": 500}
POLL_SECONDS = 0.2
# Exit statuses of a process that a signal has ended, at once or after it saved.
BY_SIGNAL = {
    status
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL)
    for status in (-number, 128 + number)
}
BAR = re.compile(r"^\s*$|\d+%\|")  # lines left by a progress bar


class Estimate:
    """Estimates run times by the median of a folder's finished runs, else by a rough rate.

    Runs of the same task and method count, else runs of the same task. Plain fine-tuning takes one pass, other methods
    two.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.seconds: dict[str, list[float]] = {}  # task/method -> training time of each run
        self.of_pass: dict[str, list[float]] = {}  # task -> training time of each run, divided by its passes
        self.unread = ""  # why some finished runs may be missing
        self.refresh()

    def refresh(self) -> None:
        """Read the runs finished by now; an unreadable file must not stop the other runs."""
        try:
            results = read_results(self.folder) if self.folder.exists() else []
        except (InputError, OSError) as error:
            if self.unread != (why := reason(error)):
                log.warning(f"times are estimated roughly, as not all results can be read: {why}")
            self.unread = why
            return
        self.seconds, self.of_pass = {}, {}
        for result in results:
            if result.best is not None:  # a training run
                seconds = 60 * result.minutes
                self.seconds.setdefault(_kind(result.name), []).append(seconds)
                if task := _task(result.name):
                    self.of_pass.setdefault(task, []).append(seconds / _passes(result.args["method"]))

    def of(self, run: Planned) -> tuple[float, str]:
        """The estimate in seconds, and its source."""
        if run.needs:
            return 0.0, "an evaluation, not counted"
        passes = _passes(run.variant.method)
        if known := self.seconds.get(_kind(run.name)):
            return statistics.median(known), f"as {counted(len(known), 'finished run')} of this task and method"
        if known := self.of_pass.get(_task(run.name)):
            return passes * statistics.median(known), f"from {counted(len(known), 'finished run')} of this task"
        import torch

        device = "a CPU" if run.args["no_cuda"] or not torch.cuda.is_available() else "a GPU"
        seconds = passes * run.steps * run.args["train_batch_size"] / ROUGH_RATES[device]
        return seconds, f"roughly, at {ROUGH_RATES[device]} examples/s per pass on {device}"


def _kind(name: str) -> str:
    """The part of a run's name without the seed: its task and method; pre-training has only one run of each."""
    return name.rpartition("/seed")[0] or name


def _task(name: str) -> str:
    """The task part of a run's name; none for pre-training, whose runs differ in length too."""
    return name.rpartition("/seed")[0].rpartition("/")[0]


def _passes(method: str) -> int:
    return 1 if method == "naive" else 2


def duration(seconds: float) -> str:
    return str(datetime.timedelta(seconds=round(seconds)))


def recipe_line(recipe: Recipe) -> str:
    """The settings of a recipe on one line, each followed by its source."""
    return ", ".join(f"{name} {short(value)} ({recipe.source(name)})" for name, value in recipe.settings().items())


def dry_run(runs: Sequence[Planned], folder: Path, jobs: int) -> None:
    """Print what would be started; nothing is written."""
    for name, task in {run.task.name: run.task for run in runs}.items():
        assert task.recipe is not None  # `plan_runs` has checked this
        print(f"# {name}: {recipe_line(task.recipe)}")
    estimate, left = Estimate(folder), []
    for run in runs:
        now = state(run)
        if now == "finished":
            print(f"# {run.name}: finished")
            continue
        seconds, basis = estimate.of(run)
        left.append(seconds)
        print(f"# {run.name}: {'resumed, ' * (now == 'cut off')}{duration(seconds)} in all ({basis})")
        print(shlex.join(command_of(run)))
    print(
        f"# {counted(len(runs), 'run')}, {len(runs) - len(left)} finished, {len(left)} to do:"
        f" about {duration(sum(left) / jobs)} with --jobs {jobs}"
    )


def write_plan(runs: Sequence[Planned], folder: Path) -> None:
    """Add the runs to the folder's plan. Earlier planned runs stay in it, so that the report can list missing ones."""
    path = folder / PLAN
    planned = read_plan(path) if path.exists() else {}
    for run in runs:
        command = shlex.join(["python", *run.command[1:]])  # whatever the path of the interpreter
        planned[run.name] = {"task": run.task.name, "method": run.variant.label, "command": command}
    write_json(path, {"runs": planned})


@contextlib.contextmanager
def only_grid(folder: Path, wait: float = 0) -> Iterator[None]:
    """Context that locks the folder against a second grid.

    Args:
        wait: how many seconds to wait for another grid to end.

    Raises:
        InputError: another grid is using the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / ".grid.lock", timeout=wait):
            yield
    except Timeout:
        raise InputError(
            f"--output_dir {folder}: another grid is at work in it; --jobs runs several at a time"
        ) from None


def run_grid(runs: Sequence[Planned], folder: Path, jobs: int, keep: str, again: str) -> dict[str, str]:
    """Run the unfinished runs, `jobs` at a time.

    Args:
        keep: which weights of a finished run to keep, one of `experiments.plan.KEPT`.
        again: the message for a user who interrupts the grid.

    Returns:
        Run -> why it failed, for failed runs.

    Raises:
        InputError: a folder has a run with other settings, or another grid is using the folder.
        Interrupted: by a signal; the runs have been told to save their states, and have ended.
    """
    with only_grid(folder), StopSignals(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as signals:
        waiting = [run for run in runs if state(run) != "finished"]
        log.info(f"{counted(len(runs), 'run')}, {len(runs) - len(waiting)} finished, {len(waiting)} to do")
        write_plan(runs, folder)
        failed = _run_all(waiting, Estimate(folder), jobs, keep, signals)
    if signals.noted:
        count = f", {len(failed)} failed" if failed else ""
        raise Interrupted(signals.noted, f"stopped{count}; {again}")
    return failed


def _run_all(waiting: list[Planned], estimate: Estimate, jobs: int, keep: str, signals: StopSignals) -> dict[str, str]:
    # Each with its start time and its share of the machine.
    running: dict[subprocess.Popen, tuple[Planned, float, dict[str, str]]] = {}
    failed: dict[str, str] = {}
    free = shares(jobs)
    bar = tqdm(total=len(waiting), unit="run", disable=None, bar_format="{l_bar}{bar}| {n}/{total}, {elapsed}{postfix}")

    def seconds_left() -> float:
        spent = {run.name: time.monotonic() - started for run, started, _ in running.values()}
        todo = [*waiting, *(run for run, *_ in running.values())]
        return sum(max(0, estimate.of(run)[0] - spent.get(run.name, 0)) for run in todo) / jobs

    def ended(run: Planned, said: str, took: float = 0) -> None:
        if said:
            failed[run.name] = said
        estimate.refresh()
        left = f"{len(waiting) + len(running)} left, about {duration(seconds_left())}"
        log.info(f"{run.name}: {said or 'done'}; {duration(took)}; {left}")
        bar.set_postfix_str(left)
        bar.update()

    try:
        while (waiting or running) and not signals.noted:
            for run in [run for run in waiting if run.waits_for and run.waits_for.name in failed]:
                waiting.remove(run)
                ended(run, "not possible, as the training failed")
            unfinished = {run.name for run in waiting} | {run.name for run, *_ in running.values()}
            ready = (run for run in waiting if run.waits_for is None or run.waits_for.name not in unfinished)
            for run in list(itertools.islice(ready, len(free))):
                waiting.remove(run)
                log.info(f"{run.name}: started")
                try:
                    process = start(run, free[0])
                except (InputError, OSError) as error:
                    ended(run, f"not started ({reason(error)})")
                else:
                    running[process] = run, time.monotonic(), free.pop(0)
            done = [process for process in running if process.poll() is not None]
            for process in done:
                run, started, share = running.pop(process)
                free.append(share)
                ended(run, finish(run, process.returncode, keep), time.monotonic() - started)
            if not done:
                time.sleep(POLL_SECONDS)
    finally:
        bar.close()
        stop(list(running), signals)
        for process, (run, *_) in running.items():
            # Those that did not end because of the signal were about to end, or failed.
            if process.returncode not in BY_SIGNAL and (said := finish(run, process.returncode, keep)):
                failed[run.name] = said
                log.info(f"{run.name}: {said}")
    return failed


def shares(jobs: int) -> list[dict[str, str]]:
    """Each parallel run's share of the machine, as environment variables; a single run gets everything.

    Runs are assigned to the GPUs in turn, to those in `CUDA_VISIBLE_DEVICES` if it is set. Each gets its part of the
    CPU's threads, unless `OMP_NUM_THREADS` is set: with more threads than cores, runs wait for each other.
    """
    if jobs == 1:
        return [{}]
    import torch  # not at the top, so that a Slurm job does not wait for it

    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = [str(number) for number in range(torch.cuda.device_count())] if given is None else given.split(",")
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, torch.get_num_threads() // jobs))
    return [
        {"OMP_NUM_THREADS": threads} | ({"CUDA_VISIBLE_DEVICES": gpus[place % len(gpus)]} if gpus else {})
        for place in range(jobs)
    ]


def start(run: Planned, share: Mapping[str, str]) -> subprocess.Popen:
    """Start a run with its output in `log.txt` in its folder, unaffected by Ctrl-C in the terminal.

    Args:
        share: environment variables for this run.
    """
    run.folder.mkdir(parents=True, exist_ok=True)
    with open(run.folder / "log.txt", "ab") as output:
        return subprocess.Popen(
            command_of(run),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            env={**os.environ, **share},
        )


def finish(run: Planned, status: int, keep: str) -> str:
    """Tidy up after a run; return what is wrong with it, or "" if nothing is."""
    path = run.folder / "log.txt"
    last = ""
    try:
        last = tidy(path)
    except (InputError, OSError) as error:  # this does not harm a finished run
        log.warning(f"{run.name}: {reason(error)}")
    if status:
        return f"failed with exit status {status} ({last or 'it said nothing'}; see {path})"
    try:
        if state(run) != "finished":
            return f"ended without a finished result (see {path})"
        if run.needs is None:
            drop_weights(run.folder, keep)
    except (InputError, OSError) as error:
        return reason(error)
    return ""


def tidy(path: Path) -> str:
    """Remove the progress bars from a log; return its last line."""
    lines = [line.rpartition("\r")[2] for line in path.read_text(encoding="utf-8", errors="replace").split("\n")]
    lines = [line for line in lines if not BAR.search(line)]
    write_text(path, "".join(f"{line}\n" for line in lines))
    return lines[-1] if lines else ""


def drop_weights(folder: Path, keep: str) -> None:
    """Remove the weights that a finished run need not keep: the `.bin` files of earlier epochs, or all weights."""
    checkpoints = sorted(folder.glob("[0-9]*_pytorch_model.bin"), key=lambda path: int(path.name.partition("_")[0]))
    if keep == "none":
        shutil.rmtree(folder / "best", ignore_errors=True)
    for path in {"all": [], "last": checkpoints[:-1], "none": checkpoints}[keep]:
        path.unlink()


def stop(processes: Sequence[subprocess.Popen], signals: StopSignals) -> None:
    """Ask the runs to save and end, and wait for them; a signal that insists kills them."""
    if processes:
        log.info(f"waiting for {len(processes)} run{'s' * (len(processes) > 1)} to save; a second signal kills")
    for process in processes:
        process.terminate()
    while any(process.poll() is None for process in processes):
        if signals.insisted:
            for process in processes:
                process.kill()
        time.sleep(POLL_SECONDS)
