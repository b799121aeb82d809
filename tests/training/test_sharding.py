"""--fsdp: two processes on CPU that keep a part of the model each give what one process gives."""

import json

import pytest
import torch
from children import run_both
from double import in_double
from script_runs import message
from test_processes import FILES, arguments, data_dir  # noqa: F401
from transformers import AutoModelForSequenceClassification

import run_sent_clas
from models.checkpoints import read_state_dict

PARTS = ("--gradient_accumulation_steps", "2", "--max_grad_norm", "0.5")
# The adversaries' gradient is divided by the spread of the scores of a process's own rows: they do not move here.
BUDGET = ("--method", "asa_budget", "--adversary_learning_rate", "0")


@pytest.mark.parametrize("flags", [("--method", "asa", *PARTS), (*BUDGET, "--gradient_checkpointing")], ids=len)
def test_a_sharded_model_trains_as_a_whole_one(flags, data_dir, encoder_folder, tmp_path, monkeypatch):  # noqa: F811
    one, two = tmp_path / "one", tmp_path / "two"
    in_double(monkeypatch.setattr)
    run_sent_clas.main(arguments(data_dir, encoder_folder, one, *flags))
    argv = arguments(data_dir, encoder_folder, two, *flags, "--fsdp")
    statuses, said = run_both("run_sent_clas", argv, tmp_path, double=True)
    assert statuses == [0, 0], said
    assert sorted(path.name for path in two.iterdir()) == [*FILES, "results.json"]

    expected, found = (json.loads((folder / "results.json").read_text())["epochs"] for folder in (one, two))
    for ours, theirs in zip(found, expected, strict=True):
        for name in ("train_loss", "eval_loss", "eval_score"):
            assert ours[name] == pytest.approx(theirs[name], rel=1e-10), name
    ours, theirs = (
        [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()] for folder in (two, one)
    )
    compared = {"train_loss", "divergence", "penalty", "grad_norm"}
    if "asa_budget" not in flags:
        compared.add("adversary_grad_norm")
    for name in compared & theirs[0].keys():
        assert [row[name] for row in ours] == pytest.approx([row[name] for row in theirs], rel=1e-10), name

    weights = [read_state_dict(folder / "1_pytorch_model.bin") for folder in (two, one)]
    best = [AutoModelForSequenceClassification.from_pretrained(folder / "best").state_dict() for folder in (two, one)]
    for ours, theirs in (weights, best):
        assert ours.keys() == theirs.keys()
        for name, tensor in ours.items():
            if "key.bias" not in name:  # whose gradient is rounding alone
                torch.testing.assert_close(tensor, theirs[name], rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ((), "--fsdp is for several processes: start them with torchrun, or leave it out"),
        (("--fp16",), "--fsdp and --fp16 exclude each other: use --bf16, which needs no loss scale"),
        (("--method", "smart"), "--fsdp works with --method naive, asa, asa_budget, not smart"),
        (("--liveness_steps", "5"), "--fsdp and --liveness_steps exclude each other: give one of them"),
    ],
)
def test_what_does_not_go_with_it_is_refused(flags, said, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2" if flags else "1")
    given = arguments(tmp_path, str(tmp_path), tmp_path / "out", *flags, "--fsdp")
    assert message(run_sent_clas.main, given) == said


def test_what_is_spread_reaches_buffers_too(tmp_path):
    """Of a buffer each process has the whole, and not a part."""
    statuses, said = run_both("scattered", [str(tmp_path)], tmp_path)
    assert statuses == [0, 0], said
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt")
        assert any(name.endswith("inv_freq") for name in found)
        assert all((tensor == 7).all() for tensor in found.values()), rank
