"""Two processes on CPU, as torchrun starts them, give what one process gives."""

import argparse
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from asa_models import ENCODERS
from children import TERMINATE, end_launcher, run_both
from conftest import gradients, relative_error, tiny_backbone, tiny_batch
from one_node import free_ports
from test_data import write
from test_training import features

import run_sent_clas
from benchmarks.kill_resume import command, differences, make_data, make_encoder
from data.batches import StepSampler, collate_parts
from data.readers import Splits
from models import methods
from models.checkpoints import read_state_dict
from training import devices, loop
from training.evaluation import Head
from training.probe import leaves_out
from utils import InputError, never_destroy

ROOT = Path(__file__).parent.parent.parent
FILES = [
    "0_pytorch_model.bin",
    "1_pytorch_model.bin",
    "SST-2.tsv",
    "best",
    "eval_results.txt",
    "metrics.jsonl",
    "predictions",
]


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory) -> Path:
    """SST-2 with 17 training rows, of which steps of 4 leave one, and 9 dev rows."""
    folder = tmp_path_factory.mktemp("data")
    words = "a warm film with a fresh plot and bright music is not a dull drama yesterday".split()
    rows = [f"{' '.join(words[: 2 + row * 7 % 13])}\t{row % 2}" for row in range(26)]
    write(folder / "sst-2" / "train.tsv", "sentence\tlabel", *rows[:17])
    write(folder / "sst-2" / "dev.tsv", "sentence\tlabel", *rows[17:])
    write(folder / "sst-2" / "test.tsv", "index\tsentence", *(f"{row}\t{words[row]} film" for row in range(5)))
    return folder


def arguments(data_dir: Path, encoder: str, folder: Path, *flags: str) -> list[str]:
    given = ["--task_name", "SST-2", "--data_dir", str(data_dir), "--load_model_path", encoder, "--no_cuda"]
    given += ["--output_dir", str(folder), "--do_train", "--do_eval", "--do_test", "--logging_steps", "1"]
    given += ["--train_batch_size", "4", "--eval_batch_size", "2", "--num_train_epochs", "2", "--learning_rate", "1e-3"]
    return [*given, "--max_seq_length", "16", *flags]


def under_torchrun(given: list[str]) -> subprocess.CompletedProcess:
    """run_sent_clas.py in two processes; `children.run_both` is quicker, and leaves out torchrun alone."""
    [port] = free_ports(1)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", f"--master_port={port}"]
    command = [*launcher, str(ROOT / "run_sent_clas.py"), *given]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        out, err = process.communicate(timeout=180)
    finally:
        end_launcher(process)
    return subprocess.CompletedProcess(command, process.returncode, out, err)


@pytest.mark.parametrize("flags", [(), ("--gradient_accumulation_steps", "2", "--max_grad_norm", "0.5")], ids=len)
def test_two_processes_train_as_one(flags, data_dir, encoder_folder, tmp_path, capsys):
    """The last step of an epoch has one row: one of the processes has nothing to do in it.

    With this seed the first epoch is the best, and predicts another label than the last for two rows of the test set.
    """
    one, two = tmp_path / "one", tmp_path / "two"
    flags = (*flags, "--seed", "49")
    run_sent_clas.main(arguments(data_dir, encoder_folder, one, *flags))
    printed = capsys.readouterr().out
    statuses, said = run_both("run_sent_clas", arguments(data_dir, encoder_folder, two, *flags), tmp_path)
    assert statuses == [0, 0], said
    assert sorted(path.name for path in two.iterdir()) == [*FILES, "results.json"]

    expected, found = (json.loads((folder / "results.json").read_text()) for folder in (one, two))
    assert found["examples"] == {"train": 17, "eval": 9, "test": 5}
    assert expected["best"]["epoch"] == 0
    assert [epoch["global_step"] for epoch in found["epochs"]] == [5, 10]
    for ours, theirs in zip(found["epochs"], expected["epochs"], strict=True):
        for name in ("train_loss", "eval_loss", "eval_score"):
            assert ours[name] == pytest.approx(theirs[name], rel=1e-5), name
        # A mean over the parts of a step, however many pairs of tokens each of them has.
        assert ours["keep_rate"] == pytest.approx(theirs["keep_rate"], abs=0.02)
    ours, theirs = (
        [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()] for folder in (two, one)
    )
    assert [row["step"] for row in ours] == list(range(1, 11))
    for name in ("train_loss", "divergence", "penalty"):
        assert [row[name] for row in ours] == pytest.approx([row[name] for row in theirs], rel=1e-5, abs=1e-7), name

    expected, found = (read_state_dict(folder / "1_pytorch_model.bin") for folder in (one, two))
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        # Adam divides by the root of a squared gradient, which for the key biases is rounding alone.
        if "key.bias" not in name:
            assert relative_error(tensor, expected[name]) < 1e-4, name

    assert [said.count(line) for line in printed.splitlines()] == [1, 1]
    assert (two / "eval_results.txt").read_text() == printed
    assert (two / "SST-2.tsv").read_text() == (one / "SST-2.tsv").read_text()
    assert said.count("step 10: train loss") == 1


def test_torchrun_starts_them(data_dir, encoder_folder, tmp_path, capsys):
    flags = ("--max_train_steps", "3")
    run_sent_clas.main(arguments(data_dir, encoder_folder, tmp_path / "one", *flags))
    shared = under_torchrun(arguments(data_dir, encoder_folder, tmp_path / "two", *flags))
    assert shared.returncode == 0, shared.stderr
    assert shared.stdout == capsys.readouterr().out  # each line once
    assert shared.stderr.count("step 3: train loss") == 1


@pytest.mark.parametrize("more", [("--report_to", "tensorboard"), ("--fsdp",)])
def test_two_processes_agree_to_stop_and_resume_exactly(more, tmp_path):
    """One of them gets a SIGTERM in the second of an epoch's three steps, which are not logged yet.

    Each of them has its own dropout to go on with, also beside the largest seed.
    """
    make_data(tmp_path / "sets", 11)
    make_encoder(tmp_path / "encoder")
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    flags = ["--save_steps", "100", "--logging_steps", "3", "--seed", str(2**32 - 1), *more]
    statuses, said = run_both("run_sent_clas", command("run_sent_clas", tmp_path, whole, *flags)[2:], tmp_path)
    assert statuses == [0, 0], said
    argv = command("run_sent_clas", tmp_path, cut, *flags)[2:]
    statuses, said = run_both("run_sent_clas", argv, tmp_path, ("training.loop", "optimize", 2, TERMINATE))
    assert statuses == [143, 143], said
    assert "the same command with --resume goes on from there" in said
    assert [state.name for state in (cut / "states").iterdir()] == ["00000002"]
    each = json.loads((cut / "states" / "00000002" / "progress.json").read_text())["processes"]
    assert each[0]["random"]["torch"] != each[1]["random"]["torch"]
    # The first alone writes what the trackers were told: the second would be ended if it did.
    blow = ("training.trackers", "write_json", 1, signal.SIGKILL)
    statuses, said = run_both("run_sent_clas", [*argv, "--resume"], tmp_path, blow)
    assert statuses == [0, 0], said
    assert [name for name in differences(cut, whole) if not name.startswith("tensorboard")] == []


@pytest.mark.parametrize(
    "method", [("freelb", "--freelb_init", "0"), ("smart", "--smart_noise", "0")], ids=lambda m: m[0]
)
def test_two_processes_train_with_gradients_of_noise_as_one(method, data_dir, encoder_folder, tmp_path):
    """Without noise drawn at random, of which each process has its own."""
    one, two = tmp_path / "one", tmp_path / "two"
    flags = ("--method", *method, "--gradient_accumulation_steps", "2", "--smart_momentum", "0.5")
    run_sent_clas.main(arguments(data_dir, encoder_folder, one, *flags))
    statuses, said = run_both("run_sent_clas", arguments(data_dir, encoder_folder, two, *flags), tmp_path)
    assert statuses == [0, 0], said
    expected, found = (json.loads((folder / "results.json").read_text())["epochs"] for folder in (one, two))
    losses = [[epoch[name] for epoch in epochs for name in ("train_loss", "eval_loss")] for epochs in (found, expected)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert losses[1][0] > losses[1][2]


def test_two_processes_train_with_a_row_budget_as_one(data_dir, encoder_folder, tmp_path, monkeypatch):
    """As one that takes their rows in two parts: the gradient depends on the spread of the scores in each part."""

    def by_process(collate, _, rows):
        return [collate(share) for share in (rows[::2], rows[1::2]) if share]

    monkeypatch.setattr(loop, "collate_parts", by_process)
    one, two = tmp_path / "one", tmp_path / "two"
    flags = ("--method", "asa_budget", "--asa_budget", "0.4", "--liveness_steps", "1")
    run_sent_clas.main(arguments(data_dir, encoder_folder, one, *flags))
    statuses, said = run_both("run_sent_clas", arguments(data_dir, encoder_folder, two, *flags), tmp_path)
    assert statuses == [0, 0], said
    ours, theirs = (
        [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()] for folder in (two, one)
    )
    for name in ("train_loss", "divergence", "grad_norm", "adversary_grad_norm"):
        assert [row[name] for row in ours] == pytest.approx([row[name] for row in theirs], rel=1e-3, abs=1e-6), name
    assert all(row["liveness"] > 0 for row in ours)


def test_a_checkpoint_is_evaluated_once_whatever_the_processes(data_dir, encoder_folder, tmp_path):
    """9 rows in two processes: with a row counted twice the loss would be another."""
    run_sent_clas.main([*arguments(data_dir, encoder_folder, tmp_path / "out"), "--max_train_steps", "1"])
    saved = str(tmp_path / "out" / "0_pytorch_model.bin")
    expected = json.loads((tmp_path / "out" / "results.json").read_text())["best"]
    flags = [flag for flag in arguments(data_dir, encoder_folder, tmp_path / "again") if flag != "--do_train"]
    statuses, said = run_both("run_sent_clas", [*flags, "--test_model_file", saved], tmp_path)
    assert statuses == [0, 0], said
    assert said.count(f"eval score = {expected['eval_score']:.2f} | eval loss = {expected['eval_loss']:.3f}\n") == 1
    record = json.loads((tmp_path / "again" / "evaluation.json").read_text())
    assert record["eval_loss"] == pytest.approx(expected["eval_loss"], rel=1e-5)
    assert record["metrics"] == expected["metrics"]
    assert (tmp_path / "again" / "SST-2.tsv").read_text() == (tmp_path / "out" / "SST-2.tsv").read_text()


def test_an_error_of_one_process_ends_both(data_dir, encoder_folder):
    """Only the first makes the folder, while the other waits for it."""
    done = under_torchrun(arguments(data_dir, encoder_folder, Path("/proc/none/out")))
    assert done.returncode == 1  # of the launcher
    said = [line for line in done.stderr.splitlines() if line.startswith("run_sent_clas.py: error:")]
    assert said == [
        "run_sent_clas.py: error: --output_dir /proc/none/out: cannot be written (No such file or directory)"
    ]


@pytest.mark.parametrize("count", [9, 8, 1])
def test_each_row_of_a_step_goes_to_one_process(count):
    lengths = list(range(2, 2 + count))
    whole = list(StepSampler(lengths, 4, seed=1, group_by_length=True))
    shares = [list(StepSampler(lengths, 4, 1, True, place, 3)) for place in range(3)]
    assert [sorted(row for share in step for row in share) for step in zip(*shares, strict=True)] == [
        sorted(step) for step in whole
    ]
    assert collate_parts(list, 2, []) == []


@pytest.mark.parametrize("method", ["asa", "naive"])
@pytest.mark.parametrize("head", ["sequence", "choice", "token"])
@pytest.mark.parametrize("model_type", sorted({model_type for model_type, _ in ENCODERS}))
def test_every_parameter_has_a_gradient(model_type, head, method):
    """Processes wait for the gradient of each parameter."""
    backbone = tiny_backbone(model_type, head)
    model = methods.build(method, backbone, argparse.Namespace(tau=0.5, protocol="corrected")).train()
    model(**tiny_batch(head)).loss.backward()
    assert set(gradients(model)) == {name for name, _ in model.named_parameters()}


@pytest.fixture
def alone():
    """A group of one process, which waits for gradients as one of several does."""
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize(
    ("model_type", "head", "idle"),
    [
        ("bert", "sequence", False),
        ("layoutlm", "sequence", False),
        ("layoutlm", "token", True),  # its pooler
        ("esm", "sequence", True),  # its head for contacts
        ("xmod", "sequence", False),  # it calls the adapters of every language
    ],
)
def test_parameters_that_nothing_uses_are_not_waited_for(model_type, head, idle, alone):
    backbone, batch = tiny_backbone(model_type, head), tiny_batch(head)
    model = methods.build("asa", backbone, argparse.Namespace(tau=0.5, protocol="corrected")).train()
    assert leaves_out(model, Splits(features(1), {}, {}), Head(None, lambda rows: batch, None, None)) == idle
    assert gradients(model) == {}
    for found in (idle, False):
        shared = torch.nn.parallel.DistributedDataParallel(model, find_unused_parameters=found)
        never_destroy(shared)  # as the scripts do: its destructor may wait for ever for a thread of gloo
        shared(**batch).loss.backward()
        if idle and not found:
            with pytest.raises(RuntimeError, match="Expected to have finished reduction"):
                shared(**batch)
        else:
            shared(**batch).loss.backward()


def test_processes_that_cannot_find_each_other_are_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(devices, "Accelerator", lambda **_: argparse.Namespace(num_processes=1, device="mps"))
    args = argparse.Namespace(fp16=False, bf16=False, no_cuda=False, report_to="none", output_dir=str(tmp_path))
    with pytest.raises(InputError, match=r"2 processes cannot share this device \(mps\): add --no_cuda"):
        devices.make_accelerator(args)


def test_more_processes_than_gpus_are_refused(monkeypatch):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    args = argparse.Namespace(no_cuda=False)
    with pytest.raises(InputError, match="2 processes cannot share 1 GPU: start fewer, or add --no_cuda"):
        devices.check_processes(args)


def test_processes_on_the_processor_wait_for_each_other_there(monkeypatch):
    """A barrier of Accelerate's names a GPU that a machine with fewer GPUs than processes does not have."""
    waits = []
    monkeypatch.setattr(torch.distributed, "barrier", lambda **settings: waits.append(settings))
    devices.wait_for_all(argparse.Namespace(num_processes=2, device=torch.device("cpu")))
    assert waits == [{}]
