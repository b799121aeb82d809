"""Steps that go wrong: gradients that are not finite, too little memory, interruptions, and what fp16 skips."""

import json

import numpy as np
import pytest
import torch
from conftest import tiny_backbone
from script_runs import message
from test_training import features, make_run, metrics_of

from data.batches import StepSampler
from models.asa import AsaModel
from training import evaluation, loop
from training.evaluation import Run
from training.loop import train
from training.state import TrainingState
from utils import Interrupted


def spoil(model, *calls: int) -> None:
    """Make a gradient infinite in these backward passes, counted from 1."""
    number = iter(range(1, 1000))
    model.classifier.weight.register_hook(lambda gradient: gradient * (float("inf") if next(number) in calls else 1))


def test_a_gradient_that_is_not_finite_stops_the_run_where_it_is(tmp_path):
    """The loss is finite: in the second epoch's second step, after a state of the first epoch."""
    model = tiny_backbone(dtype=torch.float32)
    spoil(model, 5)
    run = make_run(tmp_path / "run", model)
    said = message(train, run, features(21), {}, {})
    sampler = StepSampler(features(21).lengths, 8, 42, True)
    sampler.epoch = 1
    rows = ", ".join(map(str, sorted(sampler.steps()[1])))
    assert said.startswith(
        f"step 5, epoch 1: the loss or its gradient is not finite on the training rows {rows} (counted"
    )
    assert said.endswith(
        f"; the last good state is {run.folder.path}/states/00000003-evaluated: --resume goes on from it"
    )
    assert [row["step"] for row in metrics_of(run.folder.path)] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("max_grad_norm", "advice"),
    [
        (0.0, "lower --learning_rate 0.001, or clip with --max_grad_norm;"),
        (2.5, "lower --learning_rate 0.001, or lower --max_grad_norm 2.5;"),
    ],
)
def test_a_gradient_of_the_adversaries_that_is_not_finite_stops_the_run(max_grad_norm, advice, tmp_path):
    model = AsaModel(tiny_backbone(dtype=torch.float32))
    model.adversaries[1].key.weight.register_hook(lambda gradient: gradient * float("nan"))
    run = make_run(tmp_path / "run", model, max_grad_norm=max_grad_norm)
    said = message(train, run, features(8), {}, {})
    assert said.startswith("step 1, epoch 0: the loss or its gradient is not finite on the training rows 0, 1, 2")
    assert advice in said


def test_too_little_memory_is_one_sentence_that_says_what_to_change(tmp_path, monkeypatch):
    def out_of_memory(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    run = make_run(tmp_path / "run", tiny_backbone(dtype=torch.float32), save_steps=1)
    with monkeypatch.context() as patch:
        patch.setattr(evaluation, "_predict", out_of_memory)
        assert message(train, run, features(8), {"dev": features(5)}, {}) == (
            "cpu: not enough memory for an evaluation with --eval_batch_size 4: lower it; the last good state is"
            f" {run.folder.path}/states/00000001: --resume goes on from it"
        )
    monkeypatch.setattr(loop, "optimize", out_of_memory)
    assert message(train, make_run(tmp_path / "other", run.model), features(8), {}, {}) == (
        "cpu: not enough memory for a step with --train_batch_size 8: in a new run raise --gradient_accumulation_steps"
        " 1, which computes the same step in smaller parts, or add --gradient_checkpointing; no state is saved yet"
    )


def test_the_state_of_an_epoch_is_saved_before_its_line_is_printed(tmp_path, monkeypatch):
    """Standard output may be closed, as by `| head`, or a full disk."""
    monkeypatch.setattr(loop.tqdm, "write", lambda *_: raise_stopped())
    run = make_run(tmp_path / "run", tiny_backbone(dtype=torch.float32))
    with pytest.raises(KeyboardInterrupt):
        train(run, features(8), {"dev": features(5)}, {})
    assert [state.name for state in run.folder.saved_states()] == ["00000001-evaluated"]


@pytest.mark.parametrize("save_steps", [1, None])
def test_a_run_interrupted_in_an_evaluation_saves_its_state_once(save_steps, tmp_path, monkeypatch):
    def interrupted(*_):
        raise Interrupted(15, "stopped")

    saved, save = [], TrainingState.save
    monkeypatch.setattr(TrainingState, "save", lambda self, path: saved.append(path.name) or save(self, path))
    monkeypatch.setattr(loop, "evaluate", interrupted)
    run = make_run(tmp_path / "run", tiny_backbone(dtype=torch.float32), save_steps=save_steps)
    with pytest.raises(Interrupted):
        train(run, features(8), {"dev": features(5)}, {})
    assert saved == ["00000001"]


def fp16_run(folder, model, **changes) -> Run:
    """A run with the loss scaling of fp16, which the library offers on GPUs alone, in float32 on CPU."""
    run = make_run(folder, model, **changes)
    run.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    run.accelerator.native_amp = True
    run.accelerator.state._mixed_precision = "fp16"
    return run


def test_fp16_counts_the_steps_that_it_skips(tmp_path):
    model = tiny_backbone(dtype=torch.float32)
    spoil(model, 2, 4, 5)
    run = fp16_run(tmp_path / "run", model)
    train(run, features(21), {}, {})
    results = json.loads(run.folder.results.read_text())
    assert [epoch["skipped_steps"] for epoch in results["epochs"]] == [1, 2, 0]
    assert run.accelerator.scaler.get_scale() == 1024 / 2**3
    rows = metrics_of(run.folder.path)
    assert [row["skipped_steps"] for row in rows] == [0, 1, 1, 1, 2, 2, 0, 0, 0]
    assert ["train_loss" in row for row in rows] == [True, False, True, False, False, True, True, True, True]
    of_first = [row["train_loss"] for row in rows[:3] if "train_loss" in row]
    assert results["epochs"][0]["train_loss"] == pytest.approx(np.mean(of_first))  # skipped steps do not count
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())


def test_clipping_measures_gradients_without_the_loss_scale(tmp_path):
    found = []
    for number, make in enumerate((make_run, fp16_run)):
        run = make(tmp_path / str(number), tiny_backbone(dtype=torch.float32), max_grad_norm=0.01, num_train_epochs=1)
        train(run, features(21), {}, {})
        norms = [row["grad_norm"] for row in metrics_of(run.folder.path)]
        found.append((norms, {name: weight.double() for name, weight in run.model.state_dict().items()}))
    assert found[1][0] == pytest.approx(found[0][0], rel=1e-4)
    assert min(found[0][0]) > 0.01  # it is clipped
    for name, weight in found[1][1].items():
        if "key.bias" not in name:  # whose gradient is rounding alone, which Adam scales up
            assert torch.allclose(weight, found[0][1][name], atol=1e-6), name


def test_fp16_resumes_with_its_loss_scale_and_count(tmp_path):
    model = tiny_backbone(dtype=torch.float32)
    spoil(model, 2, 3)
    run = fp16_run(tmp_path / "run", model, save_steps=1, max_train_steps=3)
    kept = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "_end_epoch", lambda run, state, *_: kept.append(state) or raise_stopped())
        with pytest.raises(KeyboardInterrupt):
            train(run, features(21), {}, {})
    [state] = kept
    assert (run.accelerator.scaler.get_scale(), state.progress.skipped.tolist()) == (256, [2, 2])
    run.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    state.progress.skipped.zero_()
    state.load(run.folder.saved_states()[-1])
    assert (run.accelerator.scaler.get_scale(), state.progress.skipped.tolist()) == (256, [2, 2])


def raise_stopped():
    raise KeyboardInterrupt


def test_fp16_stops_after_too_many_skipped_steps(tmp_path, monkeypatch, capsys):
    """Not before: the first epoch is one without any other."""
    assert loop.MAX_SKIPPED_STEPS == 25  # as docs/running.md says
    monkeypatch.setattr(loop, "MAX_SKIPPED_STEPS", 4)
    model = tiny_backbone(dtype=torch.float32)
    spoil(model, *range(1, 100))
    run = fp16_run(tmp_path / "run", model)
    said = message(train, run, features(21), {}, {})
    assert said.startswith("step 4: the last 4 steps overflowed in fp16 and were skipped: use --bf16, or a lower")
    [epoch] = json.loads(run.folder.results.read_text())["epochs"]
    assert (epoch["train_loss"], epoch["skipped_steps"]) == (None, 3)
    assert capsys.readouterr().out == "Epoch 0: global step = 3 | train loss = nan\n"
