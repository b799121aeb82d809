"""A grid of runs, started one after another or side by side, and finished however often it is cut off.

Each run has a process of its own. What is finished is skipped, what was cut off is resumed, and what fails does not
stop the rest.
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

# Plain fine-tuning, in examples a second, where no finished run says better; other methods take two passes.
ROUGH_RATES = {"a CPU": 50, "a GPU": 500}
POLL_SECONDS = 0.2
BAR = re.compile(r"^\s*$|\d+%\|")  # what a progress bar leaves of a line


class Estimate:
    """How long runs take: the median of finished runs of the same task and method in a folder, else a rough rate."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.seconds: dict[str, list[float]] = {}  # task/method -> of the training, one figure a run
        self.unread = ""  # why there may be fewer figures than finished runs
        self.refresh()

    def refresh(self) -> None:
        """Read what has finished by now; what cannot be read must not keep the other runs from going on."""
        try:
            results = read_results(self.folder)
        except (InputError, OSError) as error:
            if self.unread != (why := reason(error)):
                log.warning(f"times are estimated roughly, as not all results can be read: {why}")
            self.unread = why
            return
        self.seconds = {}
        for result in results:
            if result.best is not None:  # a training
                self.seconds.setdefault(_kind(result.name), []).append(60 * result.minutes)

    def of(self, run: Planned) -> tuple[float, str]:
        """Seconds, and where they come from."""
        if run.needs:
            return 0.0, "an evaluation, not counted"
        known = self.seconds.get(_kind(run.name))
        if known:
            basis = f"as {len(known)} finished run{'s' * (len(known) > 1)} of this task and method"
            return statistics.median(known), basis
        import torch

        device = "a CPU" if run.args["no_cuda"] or not torch.cuda.is_available() else "a GPU"
        passes = 1 if run.variant.method == "naive" else 2
        seconds = passes * run.steps * run.args["train_batch_size"] / ROUGH_RATES[device]
        return seconds, f"roughly, at {ROUGH_RATES[device]} examples/s per pass on {device}"


def _kind(name: str) -> str:
    """What the runs of a task and a method have in common, whatever their seed; pre-training has but one of each."""
    return name.rpartition("/seed")[0] or name


def duration(seconds: float) -> str:
    return str(datetime.timedelta(seconds=round(seconds)))


def recipe_line(recipe: Recipe) -> str:
    """The settings of a recipe in one line, each followed by its source."""
    return ", ".join(f"{name} {short(value)} ({recipe.source(name)})" for name, value in recipe.settings().items())


def dry_run(runs: Sequence[Planned], folder: Path, jobs: int) -> None:
    """Print what would be started; writes nothing."""
    for name, task in {run.task.name: run.task for run in runs}.items():
        assert task.recipe is not None  # as `plan_runs` has checked
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
    """Add the runs to the folder's plan. What was planned once stays planned: the report says what is missing."""
    path = folder / PLAN
    planned = read_plan(path) if path.exists() else {}
    for run in runs:
        command = shlex.join(["python", *run.command[1:]])  # wherever it was
        planned[run.name] = {"task": run.task.name, "method": run.variant.label, "command": command}
    write_json(path, {"runs": planned})


@contextlib.contextmanager
def only_grid(folder: Path, wait: float = 0) -> Iterator[None]:
    """Hold the folder against a second grid.

    Args:
        wait: seconds in which the other one may end.

    Raises:
        InputError: another grid works in it.
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
    """Run what is not finished, `jobs` at a time.

    Args:
        keep: which weights of a finished run stay, one of `experiments.plan.KEPT`.
        again: said to who interrupts the grid.

    Returns:
        Run -> why it failed, of those that did.

    Raises:
        InputError: a folder holds a run of another setting, or another grid works there.
        Interrupted: a signal came; the runs have been told to save, and have ended.
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
    # Each with the time of its start and its share.
    running: dict[subprocess.Popen, tuple[Planned, float, dict[str, str]]] = {}
    failed: dict[str, str] = {}
    free = shares(jobs)  # of the machine
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
            if process.returncode == 0 and (said := finish(run, 0, keep)):  # it was at its end
                failed[run.name] = said
    return failed


def shares(jobs: int) -> list[dict[str, str]]:
    """What each of several runs side by side gets of the machine, as environment variables; a single one gets all.

    They take the GPUs in turn, those of `CUDA_VISIBLE_DEVICES` where it is set. Each has its part of the CPU's
    threads, unless `OMP_NUM_THREADS` is set: with more threads than cores, runs wait for each other.
    """
    if jobs == 1:
        return [{}]
    import torch  # not with the module: a job on Slurm need not wait for it

    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = [str(number) for number in range(torch.cuda.device_count())] if given is None else given.split(",")
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, torch.get_num_threads() // jobs))
    return [
        {"OMP_NUM_THREADS": threads} | ({"CUDA_VISIBLE_DEVICES": gpus[place % len(gpus)]} if gpus else {})
        for place in range(jobs)
    ]


def start(run: Planned, share: Mapping[str, str]) -> subprocess.Popen:
    """Start a run whose output goes to `log.txt` in its folder, out of reach of the terminal's Ctrl-C.

    Args:
        share: environment variables of its own.
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
    """Tidy up after a run; what is wrong with it is returned, empty for nothing."""
    path = run.folder / "log.txt"
    last = ""
    try:
        last = tidy(path)
    except (InputError, OSError) as error:  # a finished run is none the worse for it
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
    """Take the progress bars out of a log; its last line is returned."""
    lines = [line.rpartition("\r")[2] for line in path.read_text(encoding="utf-8", errors="replace").split("\n")]
    lines = [line for line in lines if not BAR.search(line)]
    write_text(path, "".join(f"{line}\n" for line in lines))
    return lines[-1] if lines else ""


def drop_weights(folder: Path, keep: str) -> None:
    """Remove what a finished run need not keep: the `.bin` of earlier epochs, or all weights."""
    checkpoints = sorted(folder.glob("[0-9]*_pytorch_model.bin"), key=lambda path: int(path.name.partition("_")[0]))
    if keep == "none":
        shutil.rmtree(folder / "best", ignore_errors=True)
    for path in {"all": [], "last": checkpoints[:-1], "none": checkpoints}[keep]:
        path.unlink()


def stop(processes: Sequence[subprocess.Popen], signals: StopSignals) -> None:
    """Ask the runs to save and end, and wait until they have; at a signal that insists they are killed."""
    if processes:
        log.info(f"waiting for {len(processes)} run{'s' * (len(processes) > 1)} to save; a second signal kills")
    for process in processes:
        process.terminate()
    while any(process.poll() is None for process in processes):
        if signals.insisted:
            for process in processes:
                process.kill()
        time.sleep(POLL_SECONDS)
