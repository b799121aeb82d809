"""The methods that ASA is compared with: what holds for all of them."""

import argparse

import pytest
import torch
from conftest import SIZES, gradients, relative_error, tiny_backbone, tiny_batch
from small_baselines import BASELINES, KINDS, OF_BOTH, SETTINGS, build, same_noise

from models import methods
from models.baselines import EmbeddingNoise, _gradient
from models.checkpoints import release_state_dict
from models.encoder_types import ENCODER_TYPES
from models.encoders import checkpoint_layers
from models.methods import unused_flags
from training import accumulation
from training.state import Means
from utils import InputError


@pytest.mark.parametrize("model_type", ENCODER_TYPES)
def test_noise_goes_onto_the_word_embeddings_of_every_type(model_type):
    """The same noise for a token wherever it stands is another matrix of embeddings."""
    model, batch = EmbeddingNoise(tiny_backbone(model_type)).eval(), tiny_batch()
    weight = model.backbone.get_input_embeddings().weight
    noise = 0.1 * torch.randn_like(weight)
    with torch.no_grad():
        plain = model(**batch).logits
        with model.added(noise[batch["input_ids"]]):
            found = model(**batch).logits
        weight += noise
        expected = model(**batch).logits
    assert relative_error(found, expected) < 1e-5  # of those whose attention is in float32
    assert relative_error(plain, expected) > 1e-3


@pytest.mark.parametrize("method", ["freelb", "smart", "r3f"])
def test_the_embeddings_of_ibert_give_a_pair(method):
    model, batch = build(method, model_type="ibert")
    output = model(**batch)
    output.loss.backward()
    assert torch.isfinite(output.loss)
    assert model.backbone.get_input_embeddings().weight.grad.abs().sum() > 0


@pytest.mark.parametrize("method", BASELINES)
def test_evaluation_and_checkpoint_are_the_plain_model_s(method):
    model, batch = build(method)
    alone = tiny_backbone().eval()
    assert torch.equal(model.eval()(**batch).logits, alone(**batch).logits)
    assert type(model(**batch)) is type(alone(**batch))
    assert release_state_dict(model).keys() == alone.state_dict().keys()
    with pytest.raises(ValueError, match="needs labels"):
        model.train()(input_ids=batch["input_ids"])
    if isinstance(model, EmbeddingNoise):
        with pytest.raises(ValueError, match="noise on the embeddings needs input_ids"):
            model(inputs_embeds=torch.zeros(*batch["input_ids"].shape, 24), labels=batch["labels"])


@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize("method", BASELINES)
def test_parts_add_up_to_the_whole(method, kind, monkeypatch):
    """Without dropout, and with one noise for every sequence; of words, one of the parts has no label."""
    model, batch = build(method, kind)
    same_noise(monkeypatch)
    if kind == "token":
        batch["labels"][0] = -100
    size = len(batch["labels"])
    model(**batch).loss.backward()
    expected = {name: gradient.clone() for name, gradient in gradients(model).items()}
    model.zero_grad()
    whole, figures = model(**batch), Means()
    labels = (batch["labels"] != -100).sum()
    for rows in (slice(0, 1), slice(1, size)):
        part = {name: tensor[rows] for name, tensor in batch.items()}
        shares = (len(part["labels"]), size), ((part["labels"] != -100).sum(), labels)
        output = model(**part)
        accumulation.weighted_loss(output, *shares).backward()
        figures.add(accumulation.figures(output, *shares))
    for name, gradient in gradients(model).items():
        assert (gradient - expected[name]).norm() < 1e-11 * expected[name].norm() + 1e-14, name
    assert figures.sums["train_loss"].item() == pytest.approx(whole.loss.item(), rel=1e-6)


@pytest.mark.parametrize("head", ["sequence", "choice", "token"])
@pytest.mark.parametrize("method", BASELINES)
def test_every_parameter_has_a_gradient(method, head):
    """Processes wait for the gradient of each parameter that is trained."""
    model, batch = build(method, head)
    model(**batch).loss.backward()
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert set(gradients(model)) == trained


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("method", BASELINES)
def test_lower_precision(method, dtype):
    model, batch = build(method, changes={"dtype": torch.float32, "initializer_range": 0.1})
    with torch.autocast("cpu", dtype):
        output = model(**batch)
    output.loss.backward()
    assert output.loss.dtype == torch.float32
    assert all(gradient.isfinite().all() for gradient in gradients(model).values())


FINE = {"r3f": ("r3f_eps",), "smart": ("smart_noise", "smart_step_size")}  # the flags that say how large noise is


def fine_divergence(method: str, dropout: float, bf16: bool, noise: float = 1e-5, forward=None) -> float:
    """The divergence that a method finds under noise of that size, whatever it is with the same draws of dropout.

    Args:
        forward: in place of the method's own.
    """
    settings = dict.fromkeys(FINE[method], noise) | {"smart_steps": 1, "smart_bregman": 0.0}
    model, batch = build(method, changes={"dtype": torch.float32, "hidden_dropout_prob": dropout}, **settings)
    torch.manual_seed(5)
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        return (forward or type(model).forward)(model, **batch).divergence.item()


@pytest.mark.parametrize("method", sorted(FINE))
def test_fine_noise_is_not_lost_in_bf16(method):
    """Without dropout the divergence in bf16 would be that of its rounding."""
    exact, found, rounded = (
        fine_divergence(method, 0.0, bf16, forward=forward)
        for bf16, forward in ((False, None), (True, None), (True, EmbeddingNoise.forward))
    )
    assert found == exact > 0
    assert rounded > 100 * exact


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("method", sorted(FINE))
def test_beside_dropout_fine_noise_is_nothing(method, bf16):
    found = fine_divergence(method, 0.1, bf16)
    assert found > 1e-3
    assert found == pytest.approx(fine_divergence(method, 0.1, bf16, noise=0.0), rel=0.05)
    assert found != fine_divergence(method, 0.1, not bf16)  # it is in the precision of the run


@pytest.mark.parametrize("method", sorted(FINE))
def test_evaluation_is_in_the_precision_of_the_run(method):
    model, batch = build(method, changes={"dtype": torch.float32})
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(model.eval()(**batch).logits, model.backbone(**batch).logits)
        assert model(**batch).logits.dtype == torch.bfloat16


@pytest.mark.parametrize("model_type", sorted(SIZES.keys() - {"ibert"}))  # whose embeddings are not one tensor
@pytest.mark.parametrize("method", ["freelb", "r3f", "smart"])
def test_noise_is_on_real_tokens_of_every_encoder(method, model_type, monkeypatch):
    """It reaches the encoder, and padding changes nothing."""
    model, batch = build(method, model_type=model_type)
    same_noise(monkeypatch)
    output, padded = model(**batch), model(**tiny_batch(padded_to=17))
    assert relative_error(padded.loss, output.loss) < 1e-10
    assert relative_error(output.loss, model.backbone(**batch).loss) > 1e-6


@pytest.mark.parametrize("method", BASELINES)
def test_gradient_checkpointing_changes_nothing(method):
    found = []
    for checkpointed in (False, True):
        model, batch = build(method, changes={"hidden_dropout_prob": 0.1})
        if checkpointed:
            checkpoint_layers(model.backbone)
        torch.manual_seed(3)
        model(**batch).loss.backward()
        found.append({name: gradient.clone() for name, gradient in gradients(model).items()})
    for name, gradient in found[0].items():
        assert (found[1][name] - gradient).norm() <= 1e-10 * gradient.norm() + 1e-15, name


def test_which_flags_a_method_leaves_unused():
    everything = {flag for settings in SETTINGS.values() for flag in settings} | OF_BOTH | {"tau", "asa_budget"}
    assert unused_flags("naive") == everything
    assert unused_flags("asa") == everything - OF_BOTH - {"tau"}
    assert unused_flags("asa_budget") == everything - OF_BOTH - {"asa_budget"}
    assert unused_flags("random_mask") == everything - SETTINGS["random_mask"].keys() - {"asa_layers"}
    for method in ("rdrop", "freelb", "smart", "r3f"):
        assert unused_flags(method) == everything - SETTINGS[method].keys()


@pytest.mark.parametrize("method", ["freelb", "smart", "r3f"])
def test_noise_needs_weights_in_float32(method):
    backbone = tiny_backbone(dtype=torch.bfloat16)
    said = "noise on the embeddings needs weights in float32, not torch.bfloat16: load them with dtype=torch.float32"
    with pytest.raises(InputError, match=f"--method {method}: {said}"):
        methods.build(method, backbone, argparse.Namespace(**SETTINGS[method], protocol="corrected"))


def test_the_averaged_model_has_no_dropout():
    backbone = tiny_backbone().train()
    assert not methods.build("smart", backbone, argparse.Namespace(**SETTINGS["smart"])).average.training


def test_a_constant_loss_has_no_gradient():
    noise = torch.ones(2, requires_grad=True)
    assert not _gradient(torch.zeros(()), noise).any()


def test_the_gradient_of_the_noise_is_scaled_against_underflow_and_0_where_it_overflows():
    noise = torch.ones(2, requires_grad=True)
    assert _gradient(noise.sum(), noise).tolist() == [2.0**10] * 2
    assert not _gradient((noise * torch.inf).sum(), noise).any()
    assert not _gradient((noise * torch.nan).sum(), noise).any()
