"""Grids on Slurm, as far as they need none: what is said, and what is made of its answers."""

import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest
from script_runs import message
from test_data import write

import reproduce
from data.tasks import TASKS
from experiments import cluster, plan
from experiments.cluster import Standing


@pytest.fixture
def run(tmp_path):
    [planned] = plan.plan_runs(tmp_path, [TASKS["CoLA"]], [plan.Variant("naive", "naive")], [1], [])
    return planned


@pytest.mark.parametrize(
    ("record", "answer", "expected"),
    [
        ("", "", Standing("missing")),
        ('{"job": "7_0"}', "7_0|PENDING", Standing("queued", "7_0")),
        ('{"job": "7_0"}', "7_0|REQUEUED 7_1|RUNNING", Standing("queued", "7_0")),
        ('{"job": "7_0"}', "7_0|COMPLETING", Standing("running", "7_0")),
        ('{"job": "7_0", "failed": "no luck"}', "7_0|FAILED", Standing("failed", "7_0", "no luck")),
        (
            '{"job": "7_0"}',
            "7_0|OUT_OF_MEMORY",
            Standing("missing", "7_0", "job 7_0 ended as OUT_OF_MEMORY; see {log}"),
        ),
        ('{"job": "7_0"}', "", Standing("missing", "7_0", "job 7_0 is gone; see {log}")),
    ],
)
def test_how_far_a_run_is(run, record, answer, expected, monkeypatch):
    asked = []
    monkeypatch.setattr(cluster, "squeue", lambda *arguments: asked.append(arguments) or answer.split())
    if record:
        write(run.folder / "job.json", record)
    [found] = cluster.standings([run]).values()
    assert (found.kind, found.job, found.why) == (
        expected.kind,
        expected.job,
        expected.why.format(log=run.folder / "log.txt"),
    )
    assert asked == ([("--array", "--format=%i|%T", "--jobs", "7")] if record else [])


def test_a_job_that_slurm_has_forgotten_is_no_error(monkeypatch):
    def answer(status: int, said: str):
        done = subprocess.CompletedProcess([], status, "", said)
        monkeypatch.setattr(subprocess, "run", lambda *_, **__: done)

    answer(1, "slurm_load_jobs error: Invalid job id specified\n")
    assert cluster.squeue("--jobs", "1") == []
    answer(1, "slurm_load_jobs error: Unable to contact slurm controller\n")
    assert message(cluster.squeue) == (
        "--cluster slurm: squeue does not answer: slurm_load_jobs error: Unable to contact slurm controller"
    )


def test_a_job_with_another_number_leaves_the_run_alone(run, monkeypatch):
    """It was submitted twice: by who could not see the first job."""
    monkeypatch.setitem(sys.modules, "submitit", SimpleNamespace(JobEnvironment=lambda: SimpleNamespace(job_id="8")))
    cluster.write_job(run, "9")
    cluster.Job(run, "last")()
    assert cluster.read_job(run) == {"job": "9"}
    assert not (run.folder / "log.txt").exists()
    cluster.write_job(run, "7")  # of an earlier one, as long as nobody has written that there is a new one
    monkeypatch.setattr(cluster, "start", lambda *_: subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"]))
    with pytest.raises(SystemExit, match="3"):
        cluster.Job(run, "last")()
    assert cluster.read_job(run)["job"] == "8"


def test_slurm_s_controller_may_be_starting_again(monkeypatch):
    answers = iter([cluster.NoAnswer("no"), cluster.NoAnswer("no"), ["RUNNING"]])

    def squeue(*arguments):
        assert arguments == ("--jobs", "7_1", "--format=%T")
        if isinstance(answer := next(answers), Exception):
            raise answer
        return answer

    monkeypatch.setattr(cluster, "squeue", squeue)
    monkeypatch.setattr(cluster.time, "sleep", lambda _: None)
    assert cluster._state_of("7_1") == "RUNNING"


def test_what_cannot_be_submitted(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    said = message(cluster.make_executor, tmp_path, [])
    assert said == "--cluster slurm: there is no sbatch here: type it on a login node of the cluster"
    monkeypatch.setattr(shutil, "which", lambda name, *_, **__: f"/usr/bin/{name}")
    for given, expected in {
        "partition": "--cluster_args partition: give KEY=VALUE, as in partition=gpu",
        "partitoin=gpu": "--cluster_args: Unknown argument 'partitoin' for executor 'slurm' in parameter",
        "nodes=2": "--cluster_args nodes=2: a run of a grid is one process; docs/several_nodes.sh starts more",
        "time=04:00:00": "--cluster_args time=04:00:00: give the time limit as timeout_min=MINUTES",
        "timeout_min=soon": "--cluster_args: Parameter \"timeout_min\" expected type <class 'int'>",
    }.items():
        assert message(cluster.make_executor, tmp_path, [given]).startswith(expected)
    monkeypatch.setitem(sys.modules, "submitit", None)
    assert message(cluster.make_executor, tmp_path, []) == "--cluster slurm needs submitit: pip install submitit"
    grid = ["main", "--output_dir", str(tmp_path / "runs")]
    said = message(reproduce.parse_arguments, [*grid, "--cluster_args", "partition=gpu"])
    assert said == "--cluster_args partition=gpu: they are for --cluster slurm"
    said = message(reproduce.parse_arguments, [*grid, "--cluster", "slurm", "--jobs", "3"])
    assert said == "--jobs 3: with --cluster slurm it is --cluster_args array_parallelism=3"
    assert list(tmp_path.iterdir()) == []


def test_settings_reach_sbatch(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name, *_, **__: f"/usr/bin/{name}")
    given = ["partition=gpu", "gpus_per_node=1", "timeout_min=90", "array_parallelism=16", "mem_gb=1.5", "account=0042"]
    script = cluster.make_executor(tmp_path, given)._executor._make_submission_file_text("true", "")
    wanted = ("partition=gpu", "account=0042", "gpus-per-node=1", "time=90", "mem=1536MB", "requeue", "signal=TERM@90")
    assert [f"#SBATCH --{setting}" in script.splitlines() for setting in wanted] == [True] * len(wanted)
