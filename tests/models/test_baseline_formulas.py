"""The methods that ASA is compared with: each by value against its formula, computed plainly here."""

import argparse
import copy

import pytest
import torch
from conftest import relative_error, tiny_backbone, tiny_batch
from small_baselines import KINDS, SETTINGS, build, same_noise
from torch.nn import functional as F

from models import methods
from models.baselines import mean_embedding_norm
from models.encoders import checkpoint_layers
from utils import InputError


def task_loss(kind: str, logits, labels):
    """The backbone's own loss, plainly."""
    if kind == "regression":
        return ((logits[:, 0] - labels) ** 2).mean()
    return F.cross_entropy(logits[labels != -100], labels[labels != -100])


def both_kl(kind: str, p, q, labels):
    """KL(p||q) + KL(q||p), summed over the labelled words of a sentence, or a regression's squared difference."""
    if kind == "regression":
        return ((p - q) ** 2).mean()
    if kind == "token":
        p, q = p[labels != -100], q[labels != -100]
    p, q = p.softmax(-1), q.softmax(-1)
    return ((p * (p / q).log()).sum() + (q * (q / p).log()).sum()) / len(labels)


def half(kind: str) -> float:
    """What is half of the divergences of distributions, and the whole of a squared difference."""
    return 1.0 if kind == "regression" else 0.5


def with_noise(model, batch, noise):
    """The logits for embeddings with noise (sequences, L, H), by the way of the model's own argument for them."""
    embedded = model.backbone.get_input_embeddings()(batch["input_ids"])
    inputs = {"attention_mask": batch["attention_mask"], "inputs_embeds": embedded + noise.view(embedded.shape)}
    return model.backbone(**inputs).logits


def real_tokens(batch):
    return batch["attention_mask"].flatten(0, -2)[..., None].double()


def agree(output, model, loss) -> None:
    """The loss is that one, and so are the gradients of the first and of the last weights."""
    assert relative_error(output.loss, loss) < 1e-11
    parameters = [model.backbone.get_input_embeddings().weight, model.backbone.classifier.weight]
    expected = torch.autograd.grad(loss, parameters)
    for actual, gradient in zip(torch.autograd.grad(output.loss, parameters), expected, strict=True):
        assert relative_error(actual, gradient) < 1e-8


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_rdrop_by_its_formula(kind):
    model, batch = build("rdrop", kind, changes={"hidden_dropout_prob": 0.3})
    labels = batch["labels"]
    torch.manual_seed(5)
    output = model(**batch)
    # The same draws of dropout, from one pass over the batch and the batch again.
    torch.manual_seed(5)
    again = {name: torch.cat((value, value)) for name, value in batch.items() if name != "labels"}
    logits = model.backbone(**again).logits
    first, second = logits[: len(labels)], logits[len(labels) :]
    assert not torch.allclose(first, second)
    task = (task_loss(kind, first, labels) + task_loss(kind, second, labels)) / 2
    apart = 0.7 * half(kind) * both_kl(kind, first, second, labels)
    assert relative_error(output.task_loss, task) < 1e-12
    assert relative_error(output.divergence, apart) < 1e-9
    assert relative_error(output.loss, task + apart) < 1e-12
    assert torch.equal(output.logits, first)
    agree(output, model, task + apart)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_random_mask_by_its_formula(kind, monkeypatch):
    """The second pass is one with a bias of -1e4 on the pairs that are not kept, but on no whole row."""
    model, batch = build("random_mask", kind, changes={"attention": "eager"})
    labels, real = batch["labels"], batch["attention_mask"].flatten(0, -2).bool()
    torch.manual_seed(5)
    keeps = [(torch.rand(*real.shape, real.shape[1]) < 0.8) & real[:, None] for _ in range(3)]
    keeps[1][0, 0] = False  # a whole row
    drawn = iter([torch.where(keep, 0.7, 0.9) for keep in keeps])
    monkeypatch.setattr(torch, "rand", lambda *_, **__: next(drawn))
    output = model(**batch)

    biases = iter([((keep | ~keep.any(-1, keepdim=True)) & real[:, None]) for keep in keeps])
    for layer in model.backbone.bert.encoder.layer:
        layer._forward_pre_hooks.clear()  # the method's own
        layer.register_forward_pre_hook(
            lambda layer, args, kwargs: ((args[0], -1e4 * (~next(biases)[:, None]).double()), {}), with_kwargs=True
        )
    masked = model.backbone(**{name: value for name, value in batch.items() if name != "labels"}).logits
    for layer in model.backbone.bert.encoder.layer:
        layer._forward_pre_hooks.clear()
    clean = model.backbone(**batch).logits
    task, apart = task_loss(kind, clean, labels), 0.7 * half(kind) * both_kl(kind, clean, masked, labels)
    assert relative_error(output.divergence, apart) < 1e-9
    agree(output, model, task + apart)
    query = real[:, :, None]
    expected = [(keep & query).sum() / real.sum(-1).square().sum() for keep in keeps]
    assert torch.allclose(output.keep_rate, torch.stack(expected))
    assert "penalty" not in output
    assert not list(model.adversaries.parameters())


def test_random_mask_keeps_as_many_as_it_should():
    for rate in (0.0, 0.3, 1.0):
        model, _ = build("random_mask", random_mask_keep_rate=rate)
        output = model(**tiny_batch(lengths=(90, 80, 85)))
        assert output.keep_rate.tolist() == pytest.approx([rate] * 3, abs=0.02 * (0 < rate < 1))
    model, _ = build("random_mask", asa_layers=[2])
    assert model(**tiny_batch()).keep_rate.shape == (1,)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_freelb_by_its_formula(kind):
    model, batch = build("freelb", kind)
    torch.manual_seed(5)
    output = model(**batch)
    torch.manual_seed(5)
    real = real_tokens(batch)
    noise = 2 * torch.rand(*real.shape[:2], 24, dtype=torch.float64) - 1
    noise = torch.stack([0.5 * row * kept / (24 * kept.sum()) ** 0.5 for row, kept in zip(noise, real, strict=True)])
    losses, norms = [], []
    for _ in range(3):
        noise = noise.detach().requires_grad_()
        losses.append(task_loss(kind, with_noise(model, batch, noise), batch["labels"]))
        (gradient,) = torch.autograd.grad(losses[-1], noise, retain_graph=True)
        norms.append(noise.detach().flatten(1).norm(dim=1))
        moved = [row + 0.2 * slope / slope.norm() for row, slope in zip(noise, gradient, strict=True)]
        noise = torch.stack([row * min(1.0, 0.45 / row.norm().item()) for row in moved])
    assert (norms[0] < 0.4).all()
    assert norms[2].max() == pytest.approx(0.45)
    assert losses[0] < losses[1] < losses[2]
    agree(output, model, sum(losses) / 3)


def test_freelb_without_a_bound():
    model, batch = build("freelb", freelb_max_norm=0.0, freelb_init=0.0, freelb_steps=6)
    seen = []
    added = model.added
    model.added = lambda noise: (seen.append(noise.detach().flatten(1).norm(dim=1).max().item()), added(noise))[1]
    model(**batch)
    assert seen[:2] == [0.0, pytest.approx(0.2)]
    assert seen[-1] > 0.6


def test_freelb_s_noise_is_relative_to_the_embeddings(monkeypatch):
    """Scaled by the encoder's norm over the one that the sizes are for, which here is twice as much as before."""
    same_noise(monkeypatch)
    unscaled, batch = build("freelb")
    rows = unscaled.backbone.get_input_embeddings().weight.detach()
    norm = rows.square().sum(1).mean().sqrt().item()
    assert mean_embedding_norm(unscaled.backbone) == pytest.approx(norm)
    assert norm != pytest.approx(rows.norm(dim=1).mean().item())  # the pad token's is 0
    scaled, _ = build("freelb", freelb_embedding_norm=norm / 2)
    by_hand, _ = build("freelb", freelb_lr=0.4, freelb_init=1.0, freelb_max_norm=0.9)
    assert (scaled.lr, scaled.init, scaled.max_norm) == pytest.approx((0.4, 1.0, 0.9))
    assert relative_error(scaled(**batch).loss, by_hand(**batch).loss) < 1e-9
    assert relative_error(scaled(**batch).loss, unscaled(**batch).loss) > 1e-4
    published, _ = build("freelb", freelb_embedding_norm=norm)  # on the encoder that they are published for
    assert relative_error(published(**batch).loss, unscaled(**batch).loss) < 1e-9

    # So an encoder whose embeddings are twice as long has twice the noise.
    longer = build("freelb")[0].backbone
    longer.get_input_embeddings().weight.data.mul_(2)
    settings = argparse.Namespace(**SETTINGS["freelb"] | {"freelb_embedding_norm": norm})
    model = methods.build("freelb", longer, settings)
    assert (model.lr, model.init, model.max_norm) == pytest.approx((0.4, 1.0, 0.9))


def test_the_norm_of_embeddings_in_half_precision():
    backbone = tiny_backbone(dtype=torch.float16)
    weight = backbone.get_input_embeddings().weight
    weight.data.fill_(60.0)
    assert mean_embedding_norm(backbone) == pytest.approx(60 * 24**0.5)  # the sum of squares overflows float16


@pytest.mark.parametrize("checkpointed", [False, True])
def test_freelb_s_steps_have_one_draw_of_dropout(checkpointed):
    model, batch = build("freelb", freelb_init=0.0, freelb_lr=1e-12, changes={"hidden_dropout_prob": 0.3})
    if checkpointed:
        checkpoint_layers(model.backbone)
    torch.manual_seed(5)
    output = model(**batch)
    torch.manual_seed(5)
    torch.rand(4, 9, 24, dtype=torch.float64)
    agree(output, model, model.backbone(**batch).loss)
    assert relative_error(model(**batch).loss, output.loss) > 1e-3  # the next step has another


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_smart_by_its_formula(kind):
    model, batch = build("smart", kind)
    labels = batch["labels"]
    first = copy.deepcopy(model.backbone)
    move(model)
    torch.manual_seed(5)
    output = model(**batch)
    torch.manual_seed(5)
    real = real_tokens(batch)
    noise = 0.01 * torch.randn(*real.shape[:2], 24, dtype=torch.float64) * real
    clean = model.backbone(**batch).logits
    for _ in range(2):
        noise = noise.detach().requires_grad_()
        apart = both_kl(kind, with_noise(model, batch, noise), clean.detach(), labels)
        (gradient,) = torch.autograd.grad(apart, noise)
        largest = gradient.abs().amax(-1, keepdim=True)
        noise = (noise + 0.05 * torch.where(largest > 0, gradient / largest, 0.0)).clamp(-0.08, 0.08).detach()
    assert noise.abs().max() == 0.08
    with torch.no_grad():
        for mean, weight in zip(first.parameters(), model.backbone.parameters(), strict=True):
            mean.copy_(0.9 * mean + 0.1 * weight)
        before = first(**batch).logits
    smooth = both_kl(kind, with_noise(model, batch, noise), clean, labels)
    loss = task_loss(kind, clean, labels) + 0.7 * smooth + 0.4 * both_kl(kind, clean, before, labels)
    agree(output, model, loss)


def move(model) -> None:
    """A step of an optimizer as training has it."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01, fused=True)
    for parameter in model.backbone.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    optimizer.zero_grad()


def test_smart_s_average_follows_the_optimizer_s_steps():
    """Once a step, in however many parts a batch comes; it is restored with the module's state."""
    model, batch = build("smart", changes={"hidden_dropout_prob": 0.3})
    weight = model.backbone.classifier.weight
    expected, found = weight.detach().clone(), model.average.classifier.weight
    model(**batch)
    assert torch.equal(found, expected)
    for _ in range(2):
        move(model)
        expected = 0.9 * expected + 0.1 * weight.detach()
        for _ in range(2):
            model(**batch)
            assert torch.allclose(found, expected, rtol=1e-12)
    assert not model.average.training
    assert not any(parameter.requires_grad for parameter in model.average.parameters())

    move(model)
    resumed, _ = build("smart", changes={"hidden_dropout_prob": 0.3, "seed": 3})
    resumed.load_state_dict(model.state_dict())
    for each in (model, resumed):
        torch.manual_seed(5)
        each.result = each(**batch).loss
    assert torch.equal(model.result, resumed.result)
    assert torch.equal(resumed.average.classifier.weight, found)
    plain, _ = build("smart", smart_bregman=0.0)
    assert {name.partition(".")[0] for name in plain.state_dict()} == {"backbone"}


def test_smart_s_average_follows_faster_in_the_first_tenth():
    """Of 20 steps the first two."""
    model, batch = build("smart")
    weight, found = model.backbone.classifier.weight, model.average.classifier.weight
    expected = weight.detach().clone()
    for step, momentum in enumerate((0.6, 0.6, 0.9, 0.9), 1):
        move(model)
        model.share_done = step / 20
        expected = momentum * expected + (1 - momentum) * weight.detach()
        model(**batch)
        assert torch.allclose(found, expected, rtol=1e-12)


def test_smart_s_average_follows_where_the_last_layer_is_frozen():
    """As with adapters; without a trained matrix there is nothing to follow."""
    backbone, batch = tiny_backbone(), tiny_batch()
    backbone.classifier.requires_grad_(False)
    args = argparse.Namespace(**SETTINGS["smart"])
    model = methods.build("smart", backbone, args).train()
    weight = backbone.bert.encoder.layer[0].attention.self.query.weight
    expected = weight.detach().clone()
    model(**batch)
    move(model)
    model(**batch)
    expected = 0.9 * expected + 0.1 * weight.detach()
    assert torch.allclose(model.average.bert.encoder.layer[0].attention.self.query.weight, expected, rtol=1e-12)
    backbone.requires_grad_(False)
    with pytest.raises(InputError, match="--method smart: no weight matrix of the model is trained"):
        methods.build("smart", backbone, args)


@pytest.mark.parametrize("noise", ["uniform", "normal"])
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_r3f_by_its_formula(kind, noise):
    model, batch = build("r3f", kind, r3f_noise=noise)
    torch.manual_seed(5)
    output = model(**batch)
    torch.manual_seed(5)
    real = real_tokens(batch)
    shape, dtype = (*real.shape[:2], 24), torch.float64
    drawn = torch.randn(shape, dtype=dtype) if noise == "normal" else 2 * torch.rand(shape, dtype=dtype) - 1
    clean, noisy = model.backbone(**batch).logits, with_noise(model, batch, 0.05 * drawn * real)
    apart = 0.7 * both_kl(kind, clean, noisy, batch["labels"])
    assert relative_error(output.divergence, apart) < 1e-9
    agree(output, model, task_loss(kind, clean, batch["labels"]) + apart)
    with pytest.raises(ValueError, match="noise 'cauchy' is unknown: choose one of uniform, normal"):
        build("r3f", r3f_noise="cauchy")
