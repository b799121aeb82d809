"""Liveness: what is compared, that training does not notice it, and what is logged."""

import copy
import json

import numpy as np
import pytest
import torch
from asa_models import close
from conftest import relative_error, tiny_backbone, tiny_batch
from test_training import features, make_run, metrics_of

from models import methods
from models.asa import AsaModel
from models.baselines import RandomMask
from models.checkpoints import release_state_dict
from models.divergence import divergence
from models.liveness import divergences, random_rule
from training import liveness, loop
from training.loop import train

MODELS = {"asa": {"tau": 0.3}, "asa_budget": {"budget": 0.3}}


@pytest.fixture(autouse=True)
def no_card(monkeypatch):
    """A run without a record has no card of its model."""
    monkeypatch.setattr(loop, "model_card", lambda *_: "", raising=False)


def generator(seed: int = 7) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def plain_divergence(model: AsaModel, batch: dict, rule) -> torch.Tensor:
    inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
    with torch.no_grad():
        clean = model.backbone(**inputs).logits
        with model.adversarial_mode(batch["attention_mask"], rule=rule):
            compared = clean, model.backbone(**inputs).logits, batch["labels"]
            return divergence(model.config, *compared, model.protocol, model.of_words)


@pytest.mark.parametrize("head", ["sequence", "choice", "token", "masked_lm"])
@pytest.mark.parametrize("settings", [*MODELS.values(), {"protocol": "release"}], ids=[*MODELS, "release"])
def test_what_is_compared(settings, head):
    """Dropout is off, and nothing of the model or of the random streams changes."""
    model = AsaModel(tiny_backbone(head=head, hidden_dropout_prob=0.5), **settings).train()
    model.backbone.bert.encoder.layer[0].eval()
    modes = [module.training for module in model.modules()]
    batch, kept = tiny_batch(head), {"learned": [], "random": []}

    def noting(name, rule):
        def noted(*given):
            keep, bias = rule(*given)
            kept[name].append((keep, bias))
            return keep, bias

        return noted

    state = torch.get_rng_state()
    found = divergences(model, generator(), **batch)
    assert torch.equal(torch.get_rng_state(), state)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(divergences(model, generator(), **batch), found)
    assert [module.training for module in model.modules()] == modes
    model.eval()
    learned = plain_divergence(model, batch, noting("learned", model.rule))
    counts = [keep.sum(-1, keepdim=True) for keep, _ in kept["learned"]]
    random = plain_divergence(model, batch, noting("random", random_rule(model.rule, counts, generator())))
    assert relative_error(found, torch.stack([learned, random])) < 1e-10
    assert found.min() > 0
    real = batch["attention_mask"].flatten(0, -2).bool()
    for (ours, bias), (theirs, other) in zip(kept["learned"], kept["random"], strict=True):
        assert torch.equal(ours.sum(-1)[real], theirs.sum(-1)[real])  # as many in each row
        assert not torch.equal(ours, theirs)
        assert not (theirs * ~real[:, None]).any()
        assert set(bias.unique().tolist()) == set(other.unique().tolist())


@pytest.mark.parametrize("method", MODELS)
def test_training_does_not_notice(method, tmp_path):
    """Weights and figures are the same bit by bit, with dropout; what is measured stands in lines of its own, or in
    those of the other figures."""
    start = AsaModel(tiny_backbone(hidden_dropout_prob=0.3, dtype=torch.float32), **MODELS[method])
    models, lines = [], []
    for steps in (0, 3):
        model = copy.deepcopy(start)
        run = make_run(tmp_path / str(steps), model, num_train_epochs=2, logging_steps=4, liveness_steps=steps)
        torch.manual_seed(0)
        train(run, features(25), {}, {})
        models.append(release_state_dict(model))
        lines.append(metrics_of(run.folder.path))
    assert all(torch.equal(tensor, models[1][name]) for name, tensor in models[0].items())
    assert [line["step"] for line in lines[0]] == [4, 8]
    assert [line["step"] for line in lines[1]] == [3, 4, 6, 8]
    assert [line["liveness"] > 0 for line in lines[1] if "liveness" in line] == [True, True]
    assert lines[1][0].keys() == {"step", "epoch", "liveness"}
    assert [line for line in lines[1] if "train_loss" in line] == lines[0]


def test_the_parts_of_a_batch_are_measured_together(tmp_path):
    """The sum over them, each as many times as it has rows; the random masks follow from seed and step."""
    model = AsaModel(tiny_backbone(dtype=torch.float32), budget=0.3)
    run = make_run(tmp_path / "run", model, seed=5)
    parts = [tiny_batch(), tiny_batch(lengths=(7, 5), seed=2)]
    found = liveness.measure(run, parts, 3)["liveness"]
    drawn = generator(int(np.random.SeedSequence([5, 3, 0]).generate_state(1)[0]))
    learned, random = sum(rows * divergences(model, drawn, **part) for rows, part in zip((4, 2), parts, strict=True))
    assert found == pytest.approx((learned / random).item())
    assert liveness.measure(run, parts, 3)["liveness"] == found
    assert liveness.measure(run, parts, 4)["liveness"] != found


@pytest.mark.parametrize(("head", "expected"), [("sequence", (1 + 3) / (1 + 1)), ("masked_lm", (2 * 1 + 1 * 3) / 3)])
def test_parts_count_by_what_their_divergence_is_a_mean_over(head, expected, tmp_path, monkeypatch):
    """Rows, or masked words: here two parts of one row, of which the first has two masked words."""
    run = make_run(tmp_path, AsaModel(tiny_backbone(head=head)))
    labels = {"sequence": ([0], [1]), "masked_lm": ([[-100, 5, 6]], [[-100, -100, 7]])}[head]
    figures = iter((torch.tensor([1.0, 1.0]), torch.tensor([3.0, 1.0])))
    monkeypatch.setattr(liveness, "divergences", lambda *_, **batch: next(figures))
    parts = [{"labels": torch.tensor(each)} for each in labels]
    assert liveness.measure(run, parts, 1)["liveness"] == pytest.approx(expected)


def test_no_ratio_where_nothing_is_masked(tmp_path):
    model = AsaModel(tiny_backbone(dtype=torch.float32), tau=0.0)
    for adversary in model.adversaries:
        close(adversary)
        torch.nn.init.ones_(adversary.query.bias)  # all is kept
    assert divergences(model, generator(), **tiny_batch()).tolist() == [0.0, 0.0]
    run = make_run(tmp_path / "run", model, max_train_steps=1, learning_rate=1e-9, liveness_steps=1)
    train(run, features(8), {}, {})
    [line] = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert json.loads(line)["liveness"] is None


@pytest.mark.parametrize("method", ["naive", "random_mask"])
def test_methods_without_adversaries_have_none(method, tmp_path):
    backbone = tiny_backbone(dtype=torch.float32)
    model = RandomMask(backbone, keep_rate=0.5) if method == "random_mask" else backbone
    run = make_run(tmp_path / "run", model, max_train_steps=2, liveness_steps=1, logging_steps=2)
    train(run, features(8), {}, {})
    [line] = metrics_of(run.folder.path)
    assert "liveness" not in line


# --- the adversaries' learning rate ---


@pytest.mark.parametrize("rate", [None, 0.0, 3e-2])
def test_the_adversaries_have_a_learning_rate_of_their_own(rate, tmp_path):
    """Adam's first step is as long as the learning rate, whatever the gradient."""
    model = AsaModel(tiny_backbone(dtype=torch.float32, initializer_range=0.1), tau=0.5)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    settings = {"max_train_steps": 1, "lr_scheduler_type": "constant", "learning_rate": 1e-3}
    train(make_run(tmp_path / "run", model, adversary_learning_rate=rate, **settings), features(8), {}, {})
    moved = {name: (parameter - before[name]).abs().max().item() for name, parameter in model.named_parameters()}
    assert moved["backbone.classifier.bias"] == pytest.approx(1e-3, rel=1e-3)
    for name, length in moved.items():
        if methods.is_adversary_s(name) and name.endswith("query.bias"):
            assert length == pytest.approx(1e-3 if rate is None else rate, rel=1e-2), name
    assert metrics_of(tmp_path / "run")[0]["learning_rate"] == 1e-3


def test_the_adversaries_learning_rate_warms_up_and_decays_with_the_model_s(tmp_path, monkeypatch):
    seen, optimize = [], loop.optimize

    def noting(run, parts, optimizer, *given):
        seen.append([group["lr"] for group in optimizer.param_groups])
        return optimize(run, parts, optimizer, *given)

    monkeypatch.setattr(loop, "optimize", noting)
    settings = {"max_train_steps": 4, "learning_rate": 1e-3, "adversary_learning_rate": 3e-3, "warmup_proportion": 0.5}
    train(make_run(tmp_path / "run", AsaModel(tiny_backbone(dtype=torch.float32)), **settings), features(8), {}, {})
    shares = [0, 0.5, 1, 0.5]
    assert [min(rates) for rates in seen] == pytest.approx([1e-3 * share for share in shares])
    assert [max(rates) for rates in seen] == pytest.approx([3e-3 * share for share in shares])
