"""The training loop: what a step is made of, in which order rows come, and which epoch is the best."""

import argparse
import importlib
import json
import os
import sys

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from conftest import gradients, relative_error, tiny_backbone, tiny_batch
from script_runs import message
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils._python_dispatch import TorchDispatchMode
from tqdm import tqdm
from transformers import AutoModelForSequenceClassification

from data.batches import StepSampler
from data.features import Features
from models import methods
from models.asa import AsaModel
from models.baselines import Smart
from models.checkpoints import read_state_dict, release_state_dict
from models.divergence import zero_without_labels
from training import accumulation, arguments, devices, loop
from training.evaluation import Head, Run, epoch_line, labelled, predict
from training.folder import RunFolder
from training.loop import train
from training.optimizer import make_optimizer, parameter_groups
from training.state import Interruption, Means, random_states, restore_random_states
from training.trackers import Trackers


class NoTokenizer:
    """Stands in where a tokenizer is only saved."""

    def save_pretrained(self, folder):
        pass


def pad(rows: list[dict]) -> dict[str, torch.Tensor]:
    width = max(len(row["input_ids"]) for row in rows)
    ids = torch.tensor([row["input_ids"] + [0] * (width - len(row["input_ids"])) for row in rows])
    batch = {"input_ids": ids, "attention_mask": (ids > 0).long()}
    return batch | ({"labels": torch.tensor([row["labels"] for row in rows])} if "labels" in rows[0] else {})


def features(count: int, labelled: bool = True) -> Features:
    random = np.random.default_rng(0)
    rows = [random.integers(5, 60, length).tolist() for length in random.integers(2, 12, count)]
    return Features({"input_ids": rows}, random.integers(0, 3, count).tolist() if labelled else None)


def accuracy(features: Features, logits: list[np.ndarray]) -> dict[str, float]:
    return {"accuracy": 100 * float(np.mean(np.stack(logits).argmax(-1) == features.columns["labels"]))}


def make_run(folder, model, score=accuracy, **changes) -> Run:
    settings = {
        "train_batch_size": 8,
        "gradient_accumulation_steps": 1,
        "eval_batch_size": 4,
        "learning_rate": 1e-3,
        "num_train_epochs": 3,
        "max_train_steps": None,
        "lr_scheduler_type": "linear",
        "warmup_proportion": 0.1,
        "weight_decay": 0.01,
        "max_grad_norm": 0.0,
        "group_by_length": True,
        "seed": 42,
        "num_workers": 0,
        "logging_steps": 1,
        "liveness_steps": 0,
        "adversary_learning_rate": None,
        "report_to": "none",
        "optimizer": "adamw",
        "asa_layers": None,
        "resume": None,
        "save_steps": None,
        "save_total_limit": 2,
        "no_cuda": True,
        "fp16": False,
        "bf16": False,
    }
    args = argparse.Namespace(**settings | changes, output_dir=str(folder))
    accelerator = devices.make_accelerator(args)
    head = Head(AutoModelForSequenceClassification, pad, score, write=None)
    folder.mkdir(exist_ok=True)
    files, model = RunFolder(folder), accelerator.prepare(model)
    trackers = Trackers(args.report_to, folder, files.trackers, bool(args.resume))
    run = Run(args, head, accelerator, model, NoTokenizer(), files, Interruption(accelerator), trackers)
    loop.start_trackers(run, here=False)
    return run


def metrics_of(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


# --- a step ---


@pytest.mark.parametrize("method", ["asa", "naive"])
def test_accumulation_is_exact(method, tmp_path):
    """8 examples at once, 4 x 2, and 3 + 3 + 2, a last batch of 5 among them, end in the same weights."""
    found = {}
    for parts in (1, 4, 3):
        model = methods.build(method, tiny_backbone(), argparse.Namespace(tau=0.5, protocol="corrected"))
        run = make_run(tmp_path / str(parts), model, gradient_accumulation_steps=parts, num_train_epochs=2)
        train(run, features(21), {}, {})
        found[parts] = release_state_dict(model), metrics_of(tmp_path / str(parts))
    expected, expected_metrics = found[1]
    for parts in (4, 3):
        state, metrics = found[parts]
        for name, tensor in expected.items():
            # Adam divides by the root of a squared gradient, which for the key biases is rounding alone.
            if "key.bias" not in name:
                assert relative_error(state[name], tensor) < 1e-7, name
        assert [row["step"] for row in metrics] == [1, 2, 3, 4, 5, 6]
        assert np.allclose([row["train_loss"] for row in metrics], [row["train_loss"] for row in expected_metrics])


@pytest.mark.parametrize("head", ["sequence", "token"])
@pytest.mark.parametrize("method", ["asa", "naive"])
def test_parts_add_up_to_the_whole(head, method):
    """Also where the parts of a batch hold different numbers of labels."""
    batch = tiny_batch(head)
    model = methods.build(method, tiny_backbone(head=head), argparse.Namespace(tau=0.5, protocol="corrected")).train()
    model(**batch).loss.backward()
    expected, figures = {name: gradient.clone() for name, gradient in gradients(model).items()}, Means()
    model.zero_grad()
    labels = (batch["labels"] != -100).sum()
    for rows in (slice(0, 1), slice(1, 4)):
        part = {name: tensor[rows] for name, tensor in batch.items()}
        shares = (len(part["labels"]), 4), ((part["labels"] != -100).sum(), labels)
        output = model(**part)
        accumulation.weighted_loss(output, *shares).backward()
        figures.add(accumulation.figures(output, *shares))
    for name, gradient in gradients(model).items():
        assert (gradient - expected[name]).norm() < 1e-12 * expected[name].norm() + 1e-15, name
    output = model(**batch)
    printed = output.task_loss + output.divergence if method == "asa" else output.loss
    assert figures.sums["train_loss"].item() == pytest.approx(printed.item(), rel=1e-6)


def test_a_target_of_minus_100_is_a_label_of_a_regression():
    for targets, labels in ((torch.tensor([-100.0, 0.5]), 2), (torch.tensor([-100, 1]), 1)):
        assert labelled(targets) == labels
        assert zero_without_labels(torch.tensor(3.0), targets[:1]) == 3.0 * (labels - 1)


def test_an_environment_of_accelerate_does_not_divide_the_loss(tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    weight = torch.ones((), requires_grad=True)
    make_run(tmp_path / "run", tiny_backbone()).accelerator.backward(2 * weight)
    assert weight.grad == 2


class HostWaits(TorchDispatchMode):
    """Notes the operations whose result, or its shape, the host has to wait for where the device is a GPU."""

    TAGS = frozenset((torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape))

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        by_place = operation is torch.ops.aten.index.Tensor and not any(
            index is not None and index.dtype == torch.bool for index in args[1]
        )
        if self.TAGS & set(operation.tags) and not by_place:
            self.found.append(str(operation))
        return operation(*args, **(kwargs or {}))


@pytest.mark.parametrize("head", ["sequence", "choice", "token"])
@pytest.mark.parametrize("method", ["asa", "asa_budget", "naive"])
def test_a_step_does_not_wait_for_the_device(method, head, tmp_path):
    backbone = tiny_backbone(head=head, dtype=torch.float32)
    model = methods.build(method, backbone, argparse.Namespace(tau=0.5, protocol="corrected")).train()
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    run = make_run(tmp_path, model, max_grad_norm=1.0)
    with HostWaits() as waits:
        loop.optimize(run, [tiny_batch(head)], optimizer)
    # transformers looks at the mask once a forward, whether there is any padding.
    assert waits.found == ["aten._local_scalar_dense.default"]


@pytest.mark.parametrize("rate", [None, 3e-3])
def test_a_run_is_a_plain_loop_with_adamw(rate, tmp_path):
    model, plain = (AsaModel(tiny_backbone(), tau=0.2) for _ in range(2))
    for adversary in model.adversaries:
        torch.nn.init.constant_(adversary.query.bias, 0.5)  # so that decay would show
    plain.load_state_dict(model.state_dict())
    settings = {"learning_rate": 1e-2, "weight_decay": 0.1, "lr_scheduler_type": "constant", "num_train_epochs": 1}
    rows = features(24)
    train(make_run(tmp_path / "run", model, adversary_learning_rate=rate, **settings), rows, {}, {})
    groups = [
        {"params": [value for value in part.parameters() if (value.ndim > 1) == decays], "lr": part_rate}
        | {"weight_decay": 0.1 * decays}
        for part, part_rate in ((plain.backbone, 1e-2), (plain.adversaries, rate or 1e-2))
        for decays in (True, False)
    ]
    optimizer = torch.optim.AdamW(groups)
    for step in StepSampler(rows.lengths, 8, 42, True).steps():
        plain.train()(**pad([rows[row] for row in step])).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    for name, value in plain.state_dict().items():
        # A key's bias has no gradient but rounding, which Adam scales up.
        assert "self.key.bias" in name or relative_error(model.state_dict()[name], value) < 1e-7, name


def test_schedule_counts_optimizer_steps(tmp_path):
    for parts in (1, 2):
        run = make_run(
            tmp_path / str(parts), tiny_backbone(), gradient_accumulation_steps=parts, warmup_proportion=0.45
        )
        train(run, features(16), {}, {})
        # 6 steps, 2 of them warm-up, rounded down: 0.5, 1, then down to 0; the figure logged is the next step's
        rates = [row["learning_rate"] for row in metrics_of(tmp_path / str(parts))]
        assert np.allclose(rates, [0.0005, 0.001, 0.00075, 0.0005, 0.00025, 0.0])


def test_max_train_steps_ends_inside_an_epoch(tmp_path):
    run = make_run(tmp_path / "run", tiny_backbone(), max_train_steps=5, gradient_accumulation_steps=2)
    train(run, features(21), {}, {})
    epochs = json.loads(run.folder.results.read_text())["epochs"]
    assert [epoch["global_step"] for epoch in epochs] == [3, 5]


def test_clipping_bounds_the_step(tmp_path):
    seen = []
    run = make_run(tmp_path / "run", tiny_backbone(), max_grad_norm=0.01)
    optimizer = argparse.Namespace(
        step=lambda: seen.append(torch.stack([g.norm() for g in gradients(run.model).values()]).norm().item()),
        zero_grad=lambda: None,
    )
    loop.optimize(run, [tiny_batch()], optimizer)
    assert seen == [pytest.approx(0.01, rel=1e-3)]


def of_step(folder, max_grad_norm: float) -> tuple[dict, dict, dict]:
    """The gradients of encoder and adversaries that an optimizer gets from a step of ASA, and the step's figures."""
    apart = {}, {}

    def keep():
        for name, gradient in gradients(run.model).items():
            apart[name.startswith("adversaries.")][name] = gradient.clone()

    run = make_run(folder, AsaModel(tiny_backbone()), max_grad_norm=max_grad_norm)
    figures, finite = loop.optimize(run, [tiny_batch()], argparse.Namespace(step=keep, zero_grad=lambda: None))
    assert finite
    return *apart, figures


def total(gradients: dict) -> float:
    return sum(gradient.square().sum().item() for gradient in gradients.values()) ** 0.5


def test_the_adversaries_gradient_is_clipped_apart(tmp_path):
    """It is the longer one, and the encoder's is not scaled for it."""
    encoder, adversaries, figures = of_step(tmp_path / "free", 0.0)
    norms = total(encoder), total(adversaries)
    assert norms[0] < norms[1] / 10
    bound = 2 * norms[0]
    same, clipped, again = of_step(tmp_path / "clipped", bound)
    assert all(torch.equal(same[name], gradient) for name, gradient in encoder.items())
    for name, gradient in adversaries.items():
        assert relative_error(clipped[name], gradient * bound / norms[1]) < 1e-6
    for logged in (figures, again):  # before they are clipped
        assert (logged["grad_norm"].item(), logged["adversary_grad_norm"].item()) == pytest.approx(norms)

    both = of_step(tmp_path / "both", 0.01)
    assert [total(part) for part in both[:2]] == [pytest.approx(0.01, rel=1e-3)] * 2
    assert (both[2]["grad_norm"].item(), both[2]["adversary_grad_norm"].item()) == pytest.approx(norms)


@pytest.mark.parametrize(("method", "logged"), [("asa", True), ("random_mask", False), ("naive", False)])
def test_both_norms_are_logged_where_there_are_two(method, logged, tmp_path):
    settings = argparse.Namespace(tau=0.5, protocol="corrected", random_mask_keep_rate=0.9)
    model = methods.build(method, tiny_backbone(dtype=torch.float32), settings)
    train(make_run(tmp_path / "run", model, report_to="tensorboard"), features(8), {}, {})
    rows = metrics_of(tmp_path / "run")
    assert all(row["grad_norm"] > 0 for row in rows)
    assert ["adversary_grad_norm" in row for row in rows] == [logged] * 3
    (file,) = (tmp_path / "run").rglob("events.out.tfevents.*")
    events = EventAccumulator(str(file)).Reload()
    for name in ("grad_norm", "adversary_grad_norm")[: 1 + logged]:
        found = [event.value for event in events.Scalars(name)]
        assert found == pytest.approx([row[name] for row in rows])
    assert ("adversary_grad_norm" in events.Tags()["scalars"]) == logged


def test_smart_knows_how_far_training_is(tmp_path, monkeypatch):
    """After the first tenth of the steps, here two of 20, its average follows more slowly."""
    settings = {"weight": 1.0, "noise": 0.01, "step_size": 0.01, "steps": 1, "radius": 0.0, "bregman": 1.0}
    model = Smart(tiny_backbone(), momentum=0.9, early_momentum=0.5, **settings)
    weights, averages = [], []

    def optimize(*arguments, original=loop.optimize):
        done = original(*arguments)
        weights.append(model.backbone.classifier.weight.detach().clone())
        averages.append(model.average.classifier.weight.clone())
        return done

    monkeypatch.setattr(loop, "optimize", optimize)
    expected = model.backbone.classifier.weight.detach().clone()
    run = make_run(tmp_path / "run", model, max_train_steps=20, lr_scheduler_type="constant")
    train(run, features(24), {}, {})
    for step in range(20):  # an average is taken at the start of the next step
        assert torch.allclose(averages[step], expected, rtol=1e-12), step
        momentum = 0.5 if step + 1 <= 2 else 0.9
        expected = momentum * expected + (1 - momentum) * weights[step]


def test_biases_and_norms_are_not_decayed():
    model = AsaModel(tiny_backbone())
    decayed, free = parameter_groups(model, 0.01)
    assert decayed["weight_decay"] == 0.01
    assert free["weight_decay"] == 0
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert all(names[id(p)].endswith(".weight") and "LayerNorm" not in names[id(p)] for p in decayed["params"])
    assert all(names[id(p)].endswith(".bias") or "LayerNorm" in names[id(p)] for p in free["params"])
    assert len(decayed["params"]) + len(free["params"]) == len(names)


# --- the order of rows ---


def test_sampler_gives_each_row_once_in_an_order_of_its_own():
    lengths = np.random.default_rng(0).integers(2, 100, 1003).tolist()
    for grouped in (False, True):
        sampler = StepSampler(lengths, 16, seed=1, group_by_length=grouped)
        first, again = list(sampler), list(sampler)
        assert first == again
        assert len(first) == len(sampler) == 63
        assert sorted(row for step in first for row in step) == list(range(1003))
        assert sorted(map(len, first)) == [11] + 62 * [16]
        sampler.epoch = 1
        assert list(sampler) != first
        assert list(StepSampler(lengths, 16, seed=2, group_by_length=grouped)) != first


def test_sampler_groups_like_lengths_without_sorting_the_steps():
    lengths = np.random.default_rng(0).integers(2, 100, 4000).tolist()
    steps = [[lengths[row] for row in step] for step in StepSampler(lengths, 16, seed=1, group_by_length=True)]
    assert np.mean([max(step) - min(step) for step in steps]) < 5
    longest = np.array([max(step) for step in steps])
    assert abs(np.corrcoef(longest, np.arange(len(longest)))[0, 1]) < 0.3


@pytest.mark.parametrize("count", [9, 1])
def test_predictions_come_in_the_order_of_the_rows(count, tmp_path):
    """9 rows in batches of 4: the last holds one."""
    model = tiny_backbone(dtype=torch.float32).eval()
    run = make_run(tmp_path / "run", AsaModel(model))
    rows = features(count)
    logits, loss = predict(run, rows)
    with torch.no_grad():
        alone = [model(**pad([rows[row]])) for row in range(count)]
    assert np.allclose(np.stack(logits), torch.cat([output.logits for output in alone]).numpy(), atol=1e-5)
    assert loss == pytest.approx(np.mean([output.loss.item() for output in alone]), rel=1e-5)
    assert predict(run, features(count, labelled=False))[1] is None


# --- epochs ---


@pytest.mark.parametrize("scores", [[50.0, 70.0, 60.0], [-10.0, -20.0, -30.0], [1.0, 2.0, 3.0], [5.0, 5.0, 5.0]])
def test_the_printed_best_is_the_saved_one(scores, tmp_path, capsys):
    given = iter(scores)
    model = AsaModel(tiny_backbone(dtype=torch.float32))
    run = make_run(tmp_path / "run", model, score=lambda features, logits: {"accuracy": next(given)})
    best = train(run, features(16), {"dev": features(5)}, {"args": {}})
    expected = int(np.argmax(scores))
    results = json.loads(run.folder.results.read_text())
    assert best == results["best"] == results["epochs"][expected]
    assert best["epoch"] == expected
    assert [epoch["eval_score"] for epoch in results["epochs"]] == scores

    assert sorted(path.name for path in run.folder.path.glob("*.bin")) == [
        f"{epoch}_pytorch_model.bin" for epoch in range(3)
    ]
    saved = read_state_dict(run.folder.checkpoint(expected))
    exported = read_state_dict(run.folder.best / "model.safetensors")
    assert exported
    assert all(torch.equal(tensor, saved[name]) for name, tensor in exported.items())
    assert all(torch.equal(tensor, saved[name]) for name, tensor in release_state_dict(model).items())

    lines = run.folder.lines.read_text().splitlines()
    assert capsys.readouterr().out.splitlines() == lines
    assert lines == [epoch_line(epoch, "train loss") for epoch in results["epochs"]]
    assert len(results["epochs"][0]["keep_rate"]) == 3
    assert 0 <= results["epochs"][0]["fully_masked"] <= 1


def test_epoch_line_is_the_release_s():
    record = {"epoch": 0, "global_step": 2105, "train_loss": 0.25012, "eval_score": 92.5459, "eval_loss": 0.2111}
    expected = "Epoch 0: global step = 2105 | train loss = 0.250 | eval score = 92.55 | eval loss = 0.211"
    assert epoch_line(record, "train loss") == expected
    assert epoch_line(record, "loss") == expected.replace("train loss", "loss")
    assert epoch_line(record | {"eval_score": None}, "loss") == "Epoch 0: global step = 2105 | loss = 0.250"


def test_tensorboard_gets_the_figures(tmp_path):
    model = AsaModel(tiny_backbone(dtype=torch.float32), layers=[1])
    run = make_run(tmp_path / "run", model, report_to="tensorboard", asa_layers=[1])
    train(run, features(8), {}, {})
    (file,) = (tmp_path / "run").rglob("events.out.tfevents.*")
    events = EventAccumulator(str(file)).Reload()
    assert [name for name in events.Tags()["scalars"] if name.startswith("keep_rate")] == ["keep_rate/1"]
    logged = {event.step: event.value for event in events.Scalars("train_loss")}
    assert logged == {record["step"]: pytest.approx(record["train_loss"]) for record in metrics_of(tmp_path / "run")}


def test_the_progress_bar_shows_loss_and_score(tmp_path, monkeypatch):
    """The loss of the last logging step, every second one here, and the score of the last epoch."""
    shown = []

    class Bar(tqdm):
        def update(self, n=1):
            shown.append(self.postfix or "")

    monkeypatch.setattr(loop, "tqdm", Bar)
    run = make_run(tmp_path / "run", tiny_backbone(dtype=torch.float32), logging_steps=2, train_batch_size=4)
    train(run, features(8), {"dev": features(3)}, {})
    losses = [f"loss={row['train_loss']:.4f}" for row in metrics_of(tmp_path / "run")]
    epochs = json.loads(run.folder.results.read_text())["epochs"]
    scores = [f"score={epoch['eval_score']:.2f}" for epoch in epochs]
    assert shown == [
        *("", losses[0]),
        *(f"{losses[0]}, {scores[0]}", f"{losses[1]}, {scores[0]}"),
        *(f"{losses[1]}, {scores[1]}", f"{losses[2]}, {scores[1]}"),
    ]


# --- precision ---


def test_fp16_on_a_processor_goes_on_in_what_it_has(tmp_path, caplog, monkeypatch):
    caplog.set_level("INFO", "asa")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for supported, expected, text in ((True, "bf16", "bf16"), (False, "no", "fp32")):
        monkeypatch.setattr(devices, "has_bf16", lambda supported=supported: supported)
        args = argparse.Namespace(fp16=True, bf16=False, no_cuda=True, report_to="none", output_dir=str(tmp_path))
        assert devices.make_accelerator(args).mixed_precision == expected
        assert f"--fp16 needs a CUDA GPU: going on in {text}\n" in caplog.text
        AcceleratorState._reset_state(reset_partial_state=True)


def test_bf16_training_keeps_float32_weights(tmp_path):
    model = AsaModel(tiny_backbone(dtype=torch.float32))
    run = make_run(tmp_path / "run", model, bf16=True, num_train_epochs=1)
    train(run, features(8), {"dev": features(3)}, {})
    assert run.accelerator.mixed_precision == "bf16"
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert np.isfinite(json.loads(run.folder.results.read_text())["epochs"][0]["train_loss"])
    assert os.listdir(tmp_path / "run" / "best")


def test_the_optimizer_of_apex(tmp_path, monkeypatch):
    """Not here: but a package of its form is asked for AdamW, and another package called apex is told from it."""
    flags = ["--task_name", "SST-2", "--do_train", "--optimizer", "apex_fused_adam"]
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "apex").mkdir()
    (tmp_path / "apex" / "__init__.py").write_text("")
    assert "the package that pip calls apex is not it" in message(arguments.of_script, "run_sent_clas", flags)
    (tmp_path / "apex" / "optimizers.py").write_text("def FusedAdam(*given, **settings): return given, settings")
    (tmp_path / "amp_C.py").write_text("")
    importlib.invalidate_caches()
    assert "needs a GPU" in message(arguments.of_script, "run_sent_clas", [*flags, "--no_cuda"])
    assert make_optimizer("apex_fused_adam", [], 0.1) == (([],), {"lr": 0.1, "adam_w_mode": True})
    for name in ("apex", "apex.optimizers", "amp_C"):
        monkeypatch.delitem(sys.modules, name, raising=False)


@pytest.mark.parametrize("kind", ["cuda", "mps", "xpu"])
def test_the_generator_of_any_device_is_saved_and_restored(kind, monkeypatch):
    """With a stand-in for the device's module, whose functions take the device except on mps."""
    device, kept = torch.device(kind), []

    class Module:
        @staticmethod
        def get_rng_state(*given):
            assert given == (() if kind == "mps" else (device,))
            return torch.tensor([1, 2], dtype=torch.uint8)

        @staticmethod
        def set_rng_state(state, *given):
            kept.append((state.tolist(), state.dtype, given))

    monkeypatch.setattr(torch, "get_device_module", lambda given: Module)
    restore_random_states(json.loads(json.dumps(random_states(device))), device)
    assert kept == [([1, 2], torch.uint8, () if kind == "mps" else (device,))]
