"""A real Slurm of this machine: grids as jobs, cut off in each way that Slurm has, and a run over two nodes."""

import contextlib
import json
import os
import re
import sys
from pathlib import Path

import pytest
from children import run
from one_node import NODES, lacking, running
from test_data import write
from test_nodes import losses
from test_processes import ROOT, arguments, data_dir  # noqa: F401

import reproduce
import run_sent_clas
from benchmarks.kill_resume import differences, make_data, make_encoder
from data.tasks import TASKS
from experiments import cluster, plan
from utils import Interrupted

HERE = Path(__file__).parent
pytestmark = pytest.mark.skipif(bool(lacking()), reason=f"Slurm is not installed here: no {', '.join(lacking())}")
TRAINED, FAILED = "SST-2/asa/seed42", "SST-2/asa/seed13"


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    with running(tmp_path_factory.mktemp("slurm") / "one") as started:
        yield started


@pytest.fixture
def grid(slurm, tmp_path, monkeypatch):
    """grid() is the command of two trainings, one of which fails, and an evaluation of each."""
    make_data(tmp_path / "sets", 11)
    make_encoder(tmp_path / "encoder")
    write(tmp_path / "hard.tsv", "sentence\tlabel", "a moving film\t1", "a plot\t0")
    (tmp_path / "marks").mkdir()
    paused = [sys.executable, str(HERE / "paused.py"), str(tmp_path / "marks")]
    monkeypatch.setattr(plan, "script_command", lambda script: [*paused, script])
    monkeypatch.setattr(cluster, "POLL_SECONDS", 0.2)
    argv = ["robustness", "--tasks", "SST-2", "--methods", "asa", "--seeds", "13,42", "--no_cuda"]
    argv += ["--output_dir", str(tmp_path / "runs"), "--data_dir", str(tmp_path / "sets")]
    argv += ["--encoder", str(tmp_path / "encoder"), "--eval_file", f"SST-2={tmp_path / 'hard.tsv'}"]
    argv += ["--keep_checkpoints", "all", "--cluster", "slurm"]
    argv += ["--cluster_args", "timeout_min=10", "signal_delay_s=100", "array_parallelism=2", "nodelist=there", "--"]
    argv += ["--max_seq_length", "40", "--train_batch_size", "4", "--num_train_epochs", "3", "--save_steps", "1"]
    return lambda: reproduce.main(argv)


def test_a_grid_is_cut_off_in_each_way_and_ends_with_the_same_bits(slurm, grid, tmp_path, monkeypatch, capsys):
    """By a signal, at its time limit, by a job that is more urgent, and by the node's restart; mostly nobody waits."""
    assert leave(grid, monkeypatch).startswith("the jobs go on; to go on: ")
    folder = tmp_path / "runs" / TRAINED
    job = json.loads((folder / "job.json").read_text())["job"]
    assert re.fullmatch(r"\d+_1", job)  # the last of its array, whose own number Slurm takes for all of them

    paused(slurm, tmp_path, 0)
    leave(grid, monkeypatch)  # somebody else types it
    assert json.loads((folder / "job.json").read_text())["job"] == job
    with held(slurm):
        slurm.ask("scancel", "--signal=TERM", job)
        requeued(slurm, job)
        assert states(folder) == ["00000001", "00000002"]

    paused(slurm, tmp_path, 1)
    # The signal is due now, as Slurm sees within 30 seconds, and the end in one or two minutes.
    minutes = int(slurm.ask("squeue", "--noheader", "--jobs", job, "--format=%M").split(":")[-2])
    with held(slurm):
        slurm.ask("scontrol", "update", f"JobId={job}", f"TimeLimit={minutes + 2}")
        requeued(slurm, job)
        slurm.ask("scontrol", "update", f"JobId={job}", "TimeLimit=10")
        assert states(folder) == ["00000003-evaluated", "00000004"]

    paused(slurm, tmp_path, 2)
    flags = ["--parsable", "--partition=urgent", "--nodelist=there", "--exclusive", "--output=/dev/null"]
    urgent = slurm.ask("sbatch", *flags, "--wrap=sleep 300").strip()
    requeued(slurm, job)  # until the urgent one ends
    assert states(folder) == ["00000005", "00000006"]
    slurm.wait_for("squeue", "--noheader", "--jobs", urgent, "--format=%T", said="RUNNING")
    slurm.ask("scancel", urgent)

    paused(slurm, tmp_path, 3)
    with held(slurm):
        slurm.restart_node("there")
        requeued(slurm, job)
        assert states(folder) == ["00000006-evaluated", "00000007"]

    with pytest.raises(SystemExit) as end:
        grid()
    assert end.value.code == 1
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("  ")]
    log = tmp_path / "runs" / FAILED / "log.txt"
    assert said == [
        f"  {FAILED}: failed with exit status 1 (run_sent_clas.py: error: no luck; see {log})",
        f"  {FAILED}/on-hard: not possible, as the training failed",
    ]
    evaluation = json.loads((folder / "on-hard" / "evaluation.json").read_text())
    assert evaluation["examples"] == {"eval": 2}

    whole = tmp_path / "whole"
    argv = json.loads((tmp_path / "runs" / "grid.json").read_text())["runs"][TRAINED]["command"].split()[4:]
    argv[argv.index("--output_dir") + 1] = str(whole)
    assert run("run_sent_clas", argv, tmp_path / "log") == 0, (tmp_path / "log").read_text()
    different = [name for name in differences(folder, whole) if not name.startswith(("job.json", "log.txt", "on-hard"))]
    assert different == []


def leave(grid, monkeypatch) -> str:
    """What is said to who types the command, and then Ctrl-C when the jobs are submitted."""

    def interrupted(_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(cluster, "watch", interrupted)
        with pytest.raises(Interrupted) as stopped:
            grid()
    return str(stopped.value)


def states(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "states").iterdir())


def paused(slurm, folder: Path, number: int) -> None:
    """Wait until the training stands still for the so-manieth time."""
    slurm.wait_for("ls", str(folder / "marks"), said=str(number))


def requeued(slurm, job: str) -> None:
    """Wait until a job is queued again; it is so for six seconds, or for as long as there is no room for it."""
    slurm.wait_for("squeue", "--noheader", "--array", "--jobs", job, "--format=%T", said="PENDING")


@contextlib.contextmanager
def held(slurm):
    """Within this context, no job starts on `there`: one that is queued again does not go on before it is seen."""
    slurm.ask("scontrol", "update", "NodeName=there", "State=DRAIN", "Reason=held")
    try:
        yield
    finally:
        slurm.ask("scontrol", "update", "NodeName=there", "State=RESUME")


def test_a_cancelled_job_is_not_queued_again(slurm, tmp_path, monkeypatch):
    """But its run has time to save, and the grid's next command submits it again."""
    deaf = "import pathlib, signal, sys; signal.signal(signal.SIGTERM, lambda *_: sys.exit(143)); "
    deaf += f"pathlib.Path({str(tmp_path / 'started')!r}).touch(); signal.pause()"
    monkeypatch.setattr(plan, "script_command", lambda script: [sys.executable, "-c", deaf])
    [planned] = plan.plan_runs(tmp_path / "runs", [TASKS["CoLA"]], [plan.Variant("naive", "naive")], [1], [])
    executor = cluster.make_executor(tmp_path / "runs", ["timeout_min=10"])
    cluster.submit([planned], {planned.name: cluster.Standing("missing")}, executor, "last")
    slurm.wait_for("ls", str(tmp_path), said="started")
    job = cluster.read_job(planned)["job"]
    assert cluster.standings([planned]) == {planned.name: cluster.Standing("running", job)}
    slurm.ask("scancel", job)
    slurm.wait_for("squeue", "--noheader", "--states=all", "--jobs", job, "--format=%T", said="CANCELLED")
    assert cluster.standings([planned]) == {planned.name: cluster.Standing("failed", job, "cancelled")}


def test_a_job_over_two_nodes_trains_as_one_process(slurm, data_dir, encoder_folder, tmp_path, monkeypatch):  # noqa: F811
    """By the script of docs/clusters.md."""
    one, two = tmp_path / "one", tmp_path / "two"
    flags = ("--max_train_steps", "3")
    run_sent_clas.main(arguments(data_dir, encoder_folder, one, *flags))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    monkeypatch.setenv("MASTER_ADDR", NODES["here"])
    given = arguments(data_dir, encoder_folder, two, *flags)
    place = given.index("--output_dir")
    given = [str(two), str(ROOT / "run_sent_clas.py"), *given[:place], *given[place + 2 :]]
    log = tmp_path / "log"
    done = slurm.ask("sbatch", "--wait", f"--output={log}", "--time=5", str(ROOT / "docs/several_nodes.sh"), *given)
    assert "Submitted batch job" in done
    assert losses(two) == pytest.approx(losses(one), rel=1e-5), log.read_text()


TORCHRUN = """#!/bin/bash
echo "$@" >> {folder}/ran
[ -e {folder}/results.json ] && exit 0
trap "exit 143" TERM
touch {folder}/results.json
while :; do sleep 0.1; done
"""


def test_that_job_queues_itself_again_and_resumes(slurm, tmp_path, monkeypatch):
    """With a stand-in for torchrun; the signal comes as before a time limit, to the batch script alone."""
    (tmp_path / "torchrun").write_text(TORCHRUN.format(folder=tmp_path))
    (tmp_path / "torchrun").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    flags = ["--parsable", "--nodes=1", f"--output={tmp_path / 'log'}", str(ROOT / "docs/several_nodes.sh")]
    given = ["run_sent_clas.py", "--overwrite_output_dir", "--do_train"]
    job = slurm.ask("sbatch", *flags, str(tmp_path), *given).strip()
    slurm.wait_for("ls", str(tmp_path), said="results.json")
    slurm.ask("scancel", "--signal=TERM", "--batch", job)
    slurm.wait_for("scontrol", "show", "job", job, said="Restarts=1")
    slurm.wait_for("squeue", "--noheader", "--states=all", "--jobs", job, "--format=%T", said="COMPLETED")
    first, second = (line.partition("run_sent_clas.py ")[2] for line in (tmp_path / "ran").read_text().splitlines())
    assert first == f"--overwrite_output_dir --do_train --output_dir {tmp_path}"
    assert second == f"--do_train --resume --output_dir {tmp_path}"

    (tmp_path / "results.json").unlink()
    job = slurm.ask("sbatch", *flags, str(tmp_path), "run_sent_clas.py", "--do_train").strip()
    slurm.wait_for("ls", str(tmp_path), said="results.json")
    slurm.ask("scancel", job)  # for good
    slurm.wait_for("squeue", "--noheader", "--states=all", "--jobs", job, "--format=%T", said="CANCELLED")
    assert len((tmp_path / "ran").read_text().splitlines()) == 3
