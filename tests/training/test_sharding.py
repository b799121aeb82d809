"""--fsdp: two processes on CPU that keep a part of the model each give what one process gives."""

import json
from pathlib import Path

import pytest
import torch
from double import in_double
from script_runs import message
from test_processes import FILES, arguments, data_dir, run_twofold  # noqa: F401
from transformers import AutoModelForSequenceClassification

import run_sent_clas
from benchmarks.kill_resume import command, differences, make_data, make_encoder
from models.checkpoints import read_state_dict

HERE = Path(__file__).parent
PARTS = ("--gradient_accumulation_steps", "2", "--max_grad_norm", "0.5")


@pytest.mark.parametrize(
    "flags", [("--method", "asa", *PARTS), ("--method", "naive", "--gradient_checkpointing")], ids=len
)
def test_a_sharded_model_trains_as_a_whole_one(flags, data_dir, encoder_folder, tmp_path, monkeypatch):  # noqa: F811
    one, two = tmp_path / "one", tmp_path / "two"
    in_double(monkeypatch.setattr)
    run_sent_clas.main(arguments(data_dir, encoder_folder, one, *flags))
    sharded = run_twofold(arguments(data_dir, encoder_folder, two, *flags, "--fsdp"), str(HERE / "double.py"))
    assert sharded.returncode == 0, sharded.stderr
    assert sorted(path.name for path in two.iterdir()) == [*FILES, "results.json"]

    expected, found = (json.loads((folder / "results.json").read_text())["epochs"] for folder in (one, two))
    for ours, theirs in zip(found, expected, strict=True):
        for name in ("train_loss", "eval_loss", "eval_score"):
            assert ours[name] == pytest.approx(theirs[name], rel=1e-10), name
    ours, theirs = (
        [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()] for folder in (two, one)
    )
    for name in {"train_loss", "divergence", "penalty", "grad_norm", "adversary_grad_norm"} & theirs[0].keys():
        assert [row[name] for row in ours] == pytest.approx([row[name] for row in theirs], rel=1e-10), name

    weights = read_state_dict(one / "1_pytorch_model.bin")
    for name, tensor in read_state_dict(two / "1_pytorch_model.bin").items():
        if "key.bias" not in name:  # whose gradient is rounding alone
            torch.testing.assert_close(tensor, weights[name], rtol=1e-8, atol=1e-10)
    best = AutoModelForSequenceClassification.from_pretrained(two / "best").state_dict()
    for name, tensor in AutoModelForSequenceClassification.from_pretrained(one / "best").state_dict().items():
        if "key.bias" not in name:
            torch.testing.assert_close(best[name], tensor, rtol=1e-8, atol=1e-10)


def test_a_sharded_run_resumes_exactly(tmp_path):
    """One of the processes gets a SIGTERM in the third step; with dropout."""
    make_data(tmp_path / "sets", 11)
    make_encoder(tmp_path / "encoder")
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    flags = ["--save_steps", "100", "--logging_steps", "1", "--fsdp"]
    done = run_twofold(command("run_sent_clas", tmp_path, whole, *flags)[2:])
    assert done.returncode == 0, done.stderr
    argv = command("run_sent_clas", tmp_path, cut, *flags)[2:]
    stopped = run_twofold(["run_sent_clas", *argv], str(HERE / "children.py"), "training.loop", "optimize", "3", "15")
    assert "the same command with --resume goes on from there" in stopped.stderr
    assert [state.name for state in (cut / "states").iterdir()] == ["00000003"]
    resumed = run_twofold([*argv, "--resume"])
    assert resumed.returncode == 0, resumed.stderr
    assert differences(cut, whole) == []


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ((), "--fsdp is for several processes: start them with torchrun, or leave it out"),
        (("--fp16",), "--fsdp and --fp16 exclude each other: use --bf16, which needs no loss scale"),
        (("--method", "smart"), "--fsdp works with --method naive and asa, not smart"),
    ],
)
def test_what_does_not_go_with_it_is_refused(flags, said, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2" if flags else "1")
    given = arguments(tmp_path, str(tmp_path), tmp_path / "out", *flags, "--fsdp")
    assert message(run_sent_clas.main, given) == said
