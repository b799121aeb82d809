"""A grid on Slurm: one job per run, submitted through submitit, and the status of each.

The jobs do not need a waiting process. Running the grid's command again, on any machine that shares its folder, shows
the status of the jobs and submits missing ones. Each run's folder records its job (`job.json`).

A job that is being stopped (time limit, pre-emption, `scancel --signal=TERM`) passes the signal on to its run, which
saves its state; the job is then queued again and continues from there.
"""

import collections
import contextlib
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from experiments.launch import dry_run as local_dry_run
from experiments.launch import finish, only_grid, start, write_plan
from experiments.plan import ROOT, Planned, state
from utils import InputError, Interrupted, StopSignals, log, reason

JOB = "job.json"  # in a run's folder: its job number, and why it failed
JOB_FILES = ".slurm"  # in the grid's folder: submitit's files
POLL_SECONDS = 10.0
TRIES = 30  # attempts to reach Slurm's controller, which may be restarting
# submitit sends a job a signal of its own choice by default; the scripts save their state at SIGTERM.
SIGNAL = {"SUBMITIT_PREEMPT_SIGNAL": "TERM"}
MOST_REQUEUES = 1000  # for a job that reaches its time limit
DEFAULTS = {"name": "asa", "timeout_min": 240}
# A run is one process here; use several_nodes.sh for more.
ALONE = ("nodes", "tasks_per_node")
# Settings with the same name on every cluster; submitit's names for Slurm's own settings begin with "slurm_".
SHARED = ("name", "timeout_min", "mem_gb", "nodes", "cpus_per_task", "gpus_per_node", "tasks_per_node")
# Slurm's states of a job that has ended; any other state is of a job that runs or will run.
ENDED = (
    *("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "BOOT_FAIL", "DEADLINE"),
    *("PREEMPTED", "REVOKED"),
)
INTERRUPTED = (128 + signal.SIGTERM, -signal.SIGTERM)  # with and without a saved state


@dataclass(frozen=True)
class Standing:
    """The status of a run.

    kind: `finished`, `running`, `queued`, `failed`, or `missing`: it has no job.
    job: the number of its job; empty if it never had one.
    why: why it failed.
    """

    kind: str
    job: str = ""
    why: str = ""


class NoAnswer(InputError):
    """Slurm does not answer."""


class Job:
    """A job's task: start or resume its run, and wait for it to end. submitit pickles this object."""

    def __init__(self, run: Planned, keep: str):
        self.run, self.keep = run, keep
        self.process: subprocess.Popen | None = None

    def __call__(self) -> None:
        import submitit

        number = submitit.JobEnvironment().job_id
        if _first_number(read_job(self.run)) > int(number.partition("_")[0]) or state(self.run) == "finished":
            return  # somebody who could not see this job submitted the run again
        write_job(self.run, number)
        cpus = os.environ.get("SLURM_CPUS_ON_NODE")  # the same number on any node, for bit-for-bit equality
        try:
            process = self.process = start(self.run, {"OMP_NUM_THREADS": cpus} if cpus else {})
        except (InputError, OSError) as error:
            self._end(f"not started ({reason(error)})", 2)
        # Does not take the lock of `wait`, which `checkpoint` needs.
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        if process.wait() in INTERRUPTED:  # only the run received the signal
            signal.raise_signal(signal.SIGTERM)
        self._end(finish(self.run, process.returncode, self.keep), process.returncode)

    def checkpoint(self):
        """Called by submitit at the signal: let the run save and end; submitit then queues the job again.

        Returns:
            The task of the queued job; None if Slurm ends the job for good, as with a plain `scancel`.
        """
        import submitit

        # A second signal would wait for the same end, inside the first one's wait.
        signal.signal(signal.SIGTERM, lambda *_: None)
        if self.process is not None:
            self.process.terminate()
            if self.process.wait() not in INTERRUPTED:  # it was about to end
                self._end(finish(self.run, self.process.returncode, self.keep), self.process.returncode)
        number = submitit.JobEnvironment().job_id
        # Asked by its number within the array: the last task to start also has a number that means the whole array.
        word = _state_of(number)
        if word in ("RUNNING", ""):
            return submitit.helpers.DelayedSubmission(Job(self.run, self.keep))
        write_job(self.run, number, "cancelled" if word in ("CANCELLED", "COMPLETING") else f"ended as {word}")
        return None

    def _end(self, why: str, status: int) -> NoReturn:
        import submitit

        write_job(self.run, submitit.JobEnvironment().job_id, why)
        sys.exit(status or bool(why))


def _state_of(job: str) -> str:
    """Slurm's state of a job; empty if unknown."""
    for _ in range(TRIES):
        try:
            return next(iter(squeue("--jobs", job, "--format=%T")), "")
        except NoAnswer:
            time.sleep(POLL_SECONDS / 10)
    return ""


def _first_number(record: Mapping[str, str]) -> int:
    """The number of a run's job, or of its array; later jobs have higher numbers. 0 without a job."""
    return int(record.get("job", "0").partition("_")[0])


def read_job(run: Planned) -> dict[str, str]:
    """`job`, the number of a run's last job, and `failed`, the reason if it failed; empty before the first job."""
    try:
        return dict(json.loads((run.folder / JOB).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return {}


def write_job(run: Planned, job: str, why: str = "") -> None:
    run.folder.mkdir(parents=True, exist_ok=True)
    # The process that submitted a job may write at the same time as the job itself.
    temporary = run.folder / f".{JOB}.{socket.gethostname()}.{os.getpid()}"
    temporary.write_text(json.dumps({"job": job, "failed": why} if why else {"job": job}), encoding="utf-8")
    os.replace(temporary, run.folder / JOB)


def squeue(*arguments: str) -> list[str]:
    """The lines of squeue; none if it no longer knows the job.

    Raises:
        InputError: there is no squeue.
        NoAnswer: it does not answer.
    """
    try:
        done = subprocess.run(["squeue", "--noheader", "--states=all", *arguments], capture_output=True, text=True)
    except OSError:
        raise InputError(
            "--cluster slurm: this machine has no squeue: type it on a login node of the cluster"
        ) from None
    if done.returncode and "Invalid job id" not in done.stderr:
        raise NoAnswer(f"--cluster slurm: squeue does not answer: {done.stderr.strip()}")
    return done.stdout.split()


def standings(runs: Sequence[Planned]) -> dict[str, Standing]:
    """Run -> its status, from its folder and from Slurm.

    Raises:
        InputError: Slurm does not answer, or a folder has a run with other settings.
    """
    records = {run.name: read_job(run) for run in runs}
    arrays = sorted({record["job"].partition("_")[0] for record in records.values() if "job" in record})
    lines = squeue("--array", "--format=%i|%T", "--jobs", ",".join(arrays)) if arrays else []
    known = dict(line.split("|") for line in lines)
    return {run.name: _standing(run, records[run.name], known) for run in runs}


def _standing(run: Planned, record: Mapping[str, str], known: Mapping[str, str]) -> Standing:
    job, finished = record.get("job", ""), state(run) == "finished"
    word = known.get(job, "")
    if word and word not in ENDED:  # even if the run is finished: the job is still tidying up
        return Standing("running" if word in ("RUNNING", "COMPLETING") else "queued", job)
    if finished:
        return Standing("finished", job)
    if "failed" in record:
        return Standing("failed", job, record["failed"])
    if not job:
        return Standing("missing")
    said = f"job {job} ended as {word}" if word else f"job {job} is gone"
    return Standing("missing", job, f"{said}; see {run.folder / 'log.txt'}")


def run_grid(runs: Sequence[Planned], folder: Path, given: Sequence[str], keep: str, again: str) -> dict[str, str]:
    """Submit the runs that have no job, and wait until all have ended.

    Args:
        given: `--cluster_args`.
        keep: which weights of a finished run to keep, one of `experiments.plan.KEPT`.
        again: the message for a user who interrupts it.

    Returns:
        Run -> why it failed, for failed runs.

    Raises:
        InputError: Slurm or submitit is missing, or does not accept the arguments.
        Interrupted: by Ctrl-C; the jobs continue.
    """
    executor = make_executor(folder, given)
    with only_grid(folder, wait=60), StopSignals(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as signals:
        found = standings(runs)
        log.info(f"{len(runs)} runs: {counts(found.values())}")
        write_plan(runs, folder)
        for run in runs:
            if (standing := found[run.name]).kind == "failed":
                log.info(f"{run.name}: {standing.why}; submitted again")
        todo = [run for run in runs if found[run.name].kind in ("missing", "failed")]
        # The job of an evaluation waits in vain for a failed training, until Slurm notices.
        todo += [run for run in runs if run.waits_for in todo and found[run.name].kind == "queued"]
        stopped = f"the jobs go on; {again}"
        try:
            submit(todo, found, executor, keep)
        except InputError:
            if signals.noted:  # Ctrl-C reached sbatch too
                raise Interrupted(signals.noted, f"not all jobs are submitted; {again}") from None
            raise
    if signals.noted:
        raise Interrupted(signals.noted, stopped)
    try:
        return watch(runs)
    except KeyboardInterrupt:
        raise Interrupted(signal.SIGINT, stopped) from None


def counts(found: Iterable[Standing]) -> str:
    """The number of runs with each status, in words."""
    numbers = collections.Counter(standing.kind for standing in found)
    return ", ".join(f"{numbers[kind]} {kind}" for kind in ("finished", "running", "queued", "failed", "missing"))


def make_executor(folder: Path, given: Sequence[str]) -> Any:
    """submitit's executor, configured by `--cluster_args`.

    Raises:
        InputError: submitit or Slurm is missing, or does not accept an argument.
    """
    os.environ.update(SIGNAL)  # submitit reads it when it is imported
    try:
        import submitit
    except ImportError:
        raise InputError("--cluster slurm needs submitit: pip install submitit") from None
    if shutil.which("sbatch") is None:
        raise InputError("--cluster slurm: there is no sbatch here: type it on a login node of the cluster")
    settings: dict[str, Any] = {
        key if key in SHARED else f"slurm_{key}": value for key, value in (DEFAULTS | _pairs(given)).items()
    }
    # Some versions of srun ignore the options of sbatch.
    cpus = '[ -z "$SLURM_CPUS_PER_TASK" ] || export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK'
    settings["slurm_setup"] = [
        cpus,
        *(f"export {name}={value}" for name, value in SIGNAL.items()),
        f"export PYTHONPATH={shlex.quote(str(ROOT))}${{PYTHONPATH:+:$PYTHONPATH}}",
    ]
    # Sites have different defaults. Evaluations must not wait forever for a failed training.
    settings["slurm_additional_parameters"] = {"requeue": True, "kill-on-invalid-dep": "yes"}
    place = (folder / JOB_FILES).absolute()
    executor = submitit.AutoExecutor(place, cluster="slurm", slurm_max_num_timeout=MOST_REQUEUES)
    try:
        executor.update_parameters(**settings)
    except (AssertionError, NameError, TypeError, ValueError) as error:
        raise InputError(f"--cluster_args: {str(error).splitlines()[0]}") from None
    return executor


def _pairs(given: Sequence[str]) -> dict[str, int | float | str]:
    pairs: dict[str, int | float | str] = {}
    for each in given:
        key, equals, text = each.partition("=")
        if not (key and equals and text):
            raise InputError(f"--cluster_args {each}: give KEY=VALUE, as in partition=gpu")
        pairs[key] = text
        for kind in (int, float):
            with contextlib.suppress(ValueError):
                if str(kind(text)) == text:  # not an account such as 0042
                    pairs[key] = kind(text)
        if key in ALONE and pairs[key] != 1:
            raise InputError(
                f"--cluster_args {each}: a run of a grid is one process; docs/several_nodes.sh starts more"
            )
        if key == "time":
            raise InputError(f"--cluster_args {each}: give the time limit as timeout_min=MINUTES")
    return pairs


def submit(runs: Sequence[Planned], found: Mapping[str, Standing], executor: Any, keep: str) -> None:
    """Submit the trainings as one job array, and the evaluations of each as an array that waits for it.

    Args:
        found: the status of these runs and of those that they need.

    Raises:
        InputError: sbatch fails.
    """
    jobs = {name: standing.job for name, standing in found.items() if standing.kind in ("queued", "running")}

    def submit_array(array: Sequence[Planned], **settings: str) -> None:
        from submitit.core.utils import FailedJobError, FailedSubmissionError

        executor.update_parameters(**settings)
        try:
            with executor.batch():
                submitted = [executor.submit(Job(run, keep)) for run in array]
        except (FailedJobError, FailedSubmissionError) as error:
            raise InputError(f"--cluster_args: sbatch refuses the jobs: {' '.join(str(error).split())}") from None
        for run, job in zip(array, submitted, strict=True):
            jobs[run.name] = job.job_id
            if read_job(run).get("job") != job.job_id:  # it may already have started, and even failed
                write_job(run, job.job_id)
            log.info(f"{run.name}: submitted as job {job.job_id}")

    # The executor keeps a dependency once set, so runs without one are submitted first.
    if free := [run for run in runs if run.waits_for is None]:
        submit_array(free)
    waiting: dict[str, list[Planned]] = {}  # number of the job to wait for, if any -> the runs
    for run in runs:
        if run.waits_for:
            waiting.setdefault(jobs.get(run.waits_for.name, ""), []).append(run)
    for job in sorted(waiting):
        submit_array(waiting[job], **({"slurm_dependency": f"afterok:{job}"} if job else {}))


def watch(runs: Sequence[Planned]) -> dict[str, str]:
    """Wait until no run has a job any more, and log changes.

    Returns:
        Run -> why it failed, for failed runs.
    """
    seen: dict[str, Standing] = {}
    while True:
        try:
            now = standings(runs)
        except NoAnswer as error:  # Slurm's controller may be restarting
            log.warning(f"{reason(error)}; asked again")
            time.sleep(POLL_SECONDS)
            continue
        for name, standing in now.items():
            if standing != seen.get(name):
                log.info(f"{name}: {standing.kind}" + f", {standing.why}" * bool(standing.why))
        # Slurm may be ahead of a shared file system: an end counts when it is seen twice.
        if now == seen and not any(standing.kind in ("queued", "running") for standing in now.values()):
            return _failed(runs, now)
        if now != seen:
            log.info(counts(now.values()))
        seen = now
        time.sleep(POLL_SECONDS)


def _failed(runs: Sequence[Planned], found: Mapping[str, Standing]) -> dict[str, str]:
    failed = {}
    for run in runs:
        standing = found[run.name]
        if run.waits_for and run.waits_for.name in failed:
            failed[run.name] = "not possible, as the training failed"
        elif standing.kind != "finished":
            failed[run.name] = standing.why or "no job is at it"
    return failed


def dry_run(runs: Sequence[Planned], folder: Path, jobs: int) -> None:
    """The same as for a local grid, with the status of the jobs."""
    local_dry_run(runs, folder, jobs)
    found = standings(runs)
    for name, standing in found.items():
        if standing.job and standing.kind != "finished":
            said = f": {standing.why}" if standing.why else f", job {standing.job}"
            print(f"# {name}: {standing.kind}{said}")
    print(f"# {counts(found.values())}")
