"""The method: agreement with the release, invariances, gradients, and the encoders it works with."""

import argparse
import copy
import json
from pathlib import Path

import pytest
import torch
from asa_models import ATTENTIONS, ENCODERS, asa, close, training_step
from conftest import HEADS, SIZES, relative_error, tiny_backbone, tiny_batch
from safetensors import safe_open
from transformers import AutoConfig, AutoModelForSequenceClassification

from models import methods
from models.asa import PROTOCOLS, AsaModel
from models.baselines import EmbeddingNoise
from models.checkpoints import load_release_checkpoint, release_state_dict
from models.divergence import divergence, symmetric_kl
from models.encoder_types import encoder_layers

GOLDEN = Path(__file__).parent / "golden"
GOLDEN_HEADS = {"seq": "sequence", "mc": "choice", "tok": "token"}

# --- the release ---


@pytest.fixture(params=sorted(path.stem for path in GOLDEN.glob("*.safetensors")))
def golden(request):
    with safe_open(GOLDEN / f"{request.param}.safetensors", "pt") as file:
        return file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def part(tensors: dict, prefix: str) -> dict:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


@pytest.mark.parametrize("one_forward", [False, True])
@pytest.mark.parametrize("attention", ATTENTIONS)
def test_release_protocol_repeats_the_release(golden, attention, one_forward):
    metadata, tensors = golden
    settings = json.loads(metadata["config"])
    if metadata["case"] == "bert_reg":
        settings["num_labels"] = 1
    config = AutoConfig.for_model(settings.pop("model_type"), **settings)
    backbone = HEADS[GOLDEN_HEADS[metadata["head"]]].from_config(config, attn_implementation=attention).double()
    model = AsaModel(backbone, tau=float(metadata["tau"]), protocol="release", one_forward=one_forward)
    load_release_checkpoint(model, part(tensors, "state."))
    batch, expected = part(tensors, "input."), part(tensors, "train.")

    masks = []
    for adversary in model.adversaries:
        adversary.register_forward_hook(lambda module, inputs, score: masks.append(score.detach() > 0))
    _, output = training_step(model, batch)
    assert relative_error(output.loss, expected["loss"].squeeze()) < 1e-12
    assert relative_error(output.logits, expected["logits"]) < 1e-12
    assert relative_error(output.adv_logits, expected["adv_logits"]) < 1e-12
    assert relative_error(output.task_loss + output.divergence, expected["reported_loss"].squeeze()) < 1e-12
    real_key = batch["attention_mask"].flatten(0, -2)[:, None, :].bool()
    for layer, mask in enumerate(masks):
        assert torch.equal((mask & real_key).double(), tensors[f"mask.{layer}"])

    by_storage = {parameter.data_ptr(): parameter for parameter in model.parameters()}
    ours = {name: by_storage[tensor.data_ptr()].grad for name, tensor in release_state_dict(model).items()}
    theirs = part(tensors, "grad.")
    assert len(theirs) > 60
    for name, gradient in theirs.items():
        # Attention ignores a constant added to every key's score: the key bias has no gradient but rounding.
        difference = (ours[name] - gradient).norm()
        assert difference < 1e-8 * gradient.norm() + 1e-15, name
    assert not [name for name in ours.keys() - theirs.keys() if ours[name] is not None and ours[name].any()]

    model.eval()
    assert relative_error(model(**batch).logits, tensors["eval.logits"]) < 1e-12


@pytest.mark.parametrize(("protocol", "dropped"), [("corrected", 0.25), ("release", 0.0)])
def test_the_release_s_roberta_has_no_attention_dropout(protocol, dropped):
    model = asa("roberta", protocol=protocol, attention_probs_dropout_prob=0.25)
    layers = model.backbone.roberta.encoder.layer
    assert {layer.attention.self.dropout.p for layer in layers} == {dropped}
    model.detach()
    assert {layer.attention.self.dropout.p for layer in layers} == {0.25}  # the model as it was given
    model = asa("bert", protocol=protocol, attention_probs_dropout_prob=0.25)
    assert {layer.attention.self.dropout.p for layer in model.backbone.bert.encoder.layer} == {0.25}


@pytest.mark.parametrize("protocol", ["corrected", "release"])
def test_attention_dropout_that_was_changed_stays_so(protocol):
    backbone = tiny_backbone("roberta", attention_probs_dropout_prob=0.25)
    for layer in backbone.roberta.encoder.layer:
        layer.attention.self.dropout.p = 0.1
    model = copy.deepcopy(AsaModel(backbone, protocol=protocol))
    layers = model.backbone.roberta.encoder.layer
    assert {layer.attention.self.dropout.p for layer in layers} == {0.0 if protocol == "release" else 0.1}
    model.detach()
    assert {layer.attention.self.dropout.p for layer in layers} == {0.1}


# --- the plain model ---


@pytest.mark.parametrize(("model_type", "attention"), ENCODERS)
def test_wrapping_leaves_the_plain_model_as_it_is(model_type, attention):
    batch = tiny_batch()
    plain = tiny_backbone(model_type, attention=attention, dtype=torch.float32)
    model = asa(model_type, attention=attention, dtype=torch.float32)
    for wrapped, alone in ((model.eval(), plain.eval()), (model.train(), plain.train())):
        assert torch.equal(wrapped(**batch).logits, alone(**batch).logits)
    assert type(model.eval()(**batch)) is type(plain(**batch))


def test_a_failed_step_leaves_the_plain_model_behind(monkeypatch):
    model, batch = asa(), tiny_batch()
    before = model.eval()(**batch).logits
    monkeypatch.setattr(model.adversaries[1], "forward", lambda hidden_states: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        model.train()(**batch)
    assert torch.equal(model.eval()(**batch).logits, before)


# --- one forward in place of two ---


@pytest.mark.parametrize("head", sorted(HEADS))
@pytest.mark.parametrize(("model_type", "attention"), ENCODERS)
def test_one_forward_is_two(model_type, head, attention):
    model, batch = asa(model_type, head, attention), tiny_batch(head)
    for protocol in PROTOCOLS:
        model.protocol = protocol
        for inputs in (batch, {name: tensor for name, tensor in batch.items() if name != "attention_mask"}):
            model.one_forward = False
            expected, two = training_step(model, inputs)
            expected = {name: gradient.clone() for name, gradient in expected.items()}
            model.one_forward = True
            found, one = training_step(model, inputs)
            assert one.keys() == two.keys()
            for name, value in two.items():
                assert relative_error(one[name], value) < 1e-11, name
            assert found.keys() == expected.keys()
            for name, gradient in expected.items():
                assert (found[name] - gradient).norm() < 1e-9 * gradient.norm() + 1e-13, name


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 0.05)])
def test_one_forward_is_two_in_lower_precision(dtype, tolerance):
    """One layer, whose input is the same either way, so that the masks are equal."""
    model = asa(dtype=torch.float32, initializer_range=0.1, num_hidden_layers=1)
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        expected, two = training_step(model, tiny_batch())
        expected = {name: gradient.clone() for name, gradient in expected.items()}
        model.one_forward = True
        found, one = training_step(model, tiny_batch())
    assert torch.equal(one.keep_rate, two.keep_rate)
    assert relative_error(one.loss, two.loss) < tolerance
    for name in ("adversaries.0.query.weight", "backbone.bert.encoder.layer.0.attention.self.value.weight"):
        assert relative_error(found[name], expected[name]) < tolerance, name


def test_one_forward_leaves_each_pass_its_own_dropout():
    model = asa(hidden_dropout_prob=0.3)
    model.one_forward = True
    for adversary in model.adversaries:
        close(adversary)  # which leaves every row as it is
    output = model.train()(**tiny_batch())
    assert relative_error(output.adv_logits, output.logits) > 0.01


def test_a_regression_stays_with_two_forwards():
    model, batch = asa(num_labels=1), tiny_batch(num_labels=1)
    two = model.train()(**batch)
    model.one_forward = True
    assert torch.equal(model(**batch).loss, two.loss)


# --- adversaries in some layers ---


@pytest.mark.parametrize("one_forward", [False, True])
@pytest.mark.parametrize("model_type", ["albert", "bert", "distilbert"])
def test_layers_without_an_adversary_attend_plainly(model_type, one_forward):
    """As where an adversary masks whole rows alone, which it leaves as they are."""
    every = AsaModel(tiny_backbone(model_type), one_forward=one_forward)
    some = AsaModel(tiny_backbone(model_type), one_forward=one_forward, layers=[1])
    for number in (0, 2):
        close(every.adversaries[number])
        assert some.adversaries[number] is None
    some.adversaries[1].load_state_dict(every.adversaries[1].state_dict())
    found, output = training_step(some, tiny_batch())
    found = {name: gradient.clone() for name, gradient in found.items()}
    expected, whole = training_step(every, tiny_batch())
    for name in ("task_loss", "divergence", "penalty"):
        assert relative_error(output[name], whole[name]) < 1e-12, name
    assert relative_error(output.adv_logits, whole.adv_logits) < 1e-12
    assert not torch.allclose(output.adv_logits, output.logits)
    assert output.keep_rate.tolist() == [whole.keep_rate[1].item()]
    for name in found:
        assert (found[name] - expected[name]).norm() < 1e-10 * expected[name].norm() + 1e-15, name


def test_layers_that_there_are_not():
    for layers in ([0, 3], [-1]):
        with pytest.raises(ValueError, match=rf"no layer {max(layers, key=abs)}: the encoder has the layers 0 to 2"):
            AsaModel(tiny_backbone(), layers=layers)
    with pytest.raises(ValueError, match="give one at the least"):
        AsaModel(tiny_backbone(), layers=[])


# --- the loss ---


def test_symmetric_kl_by_value():
    p, q = (torch.tensor([row], dtype=torch.float64) for row in ([0.2, 0.3, 0.5], [0.6, 0.3, 0.1]))
    forward, backward = (p * (p / q).log()).sum(), (q * (q / p).log()).sum()
    assert symmetric_kl(p.log() + 3, q.log() - 1).item() == pytest.approx(0.5 * (forward + backward).item(), rel=1e-12)


def test_loss_is_made_of_its_parts():
    model, batch = asa(tau=0.3), tiny_batch(num_labels=3)
    output = model.train()(**batch)
    assert output.task_loss.item() == torch.nn.functional.cross_entropy(output.logits, batch["labels"]).item()
    assert output.divergence.item() == (symmetric_kl(output.logits, output.adv_logits) / 4).item()
    assert output.loss.item() == (output.task_loss + output.divergence + 0.09 * output.penalty).item()
    pairs = 9**2 + 4**2 + 6**2 + 2**2
    assert output.penalty.item() == pytest.approx(output.keep_rate.sum().item() * pairs / 4)


def test_a_weight_of_the_divergence_with_its_tau_leaves_the_adversary_its_game():
    """With w and sqrt(w) tau the adversary's gradient is w times its own; the encoder feels w of the divergence."""
    args = argparse.Namespace(tau=0.25, protocol="corrected", asa_layers=None, asa_divergence_weight=0.25)
    weighted, plain = methods.build("asa", tiny_backbone(), args), asa(tau=0.5)
    weighted.load_state_dict(plain.state_dict())
    batch = tiny_batch()
    expected, without = training_step(plain, batch)
    found, output = training_step(weighted, batch)
    assert output.divergence.item() == pytest.approx(0.25 * without.divergence.item(), rel=1e-9)
    assert output.loss.item() == pytest.approx(
        without.task_loss.item() + 0.25 * (without.loss - without.task_loss).item(), rel=1e-12
    )
    for name in expected:
        if name.startswith("adversaries"):
            assert relative_error(found[name], 0.25 * expected[name]) < 1e-9, name
    plain.divergence_weight = plain.tau = 0.0
    of_task, _ = training_step(plain, batch)
    name = "backbone.classifier.weight"
    assert relative_error(found[name], of_task[name] + 0.25 * (expected[name] - of_task[name])) < 1e-9


def test_regression_divergence_is_the_mean_squared_difference():
    output = asa(num_labels=1).train()(**tiny_batch(num_labels=1))
    assert output.divergence.item() == pytest.approx((output.logits - output.adv_logits).square().mean().item())


def test_questions_with_one_choice_have_no_divergence():
    """Their only choice has a probability of 1 in both passes; they are no regression."""
    config = AutoConfig.for_model("bert")
    p, q, labels = torch.tensor([[0.3], [2.0]]), torch.tensor([[1.3], [-2.0]]), torch.tensor([0, 0])
    assert divergence(config, p, q, labels) == 0
    assert divergence(config, p, q, labels.float()) == 8.5  # numbers


def test_token_divergence_counts_labelled_positions():
    batch = tiny_batch("token")
    output = asa("bert", "token").train()(**batch)
    labelled = batch["labels"] != -100
    expected = symmetric_kl(output.logits[labelled], output.adv_logits[labelled]) / 4
    assert output.divergence.item() == pytest.approx(expected.item(), rel=1e-12)
    for logits in (output.logits, output.adv_logits):
        found, by_picking = (
            torch.autograd.grad(loss, logits, retain_graph=True)[0] for loss in (output.divergence, expected)
        )
        assert relative_error(found, by_picking) < 1e-12
        assert not found[~labelled].any()


def test_a_batch_of_one_example():
    gradient, output = training_step(asa(), tiny_batch(lengths=(5,)))
    assert output.loss.isfinite()
    assert gradient["adversaries.0.query.weight"].norm() > 0


# --- who descends and who ascends ---


def objective(model, batch) -> float:
    with torch.no_grad():
        output = model(**batch)
    return (output.divergence + model.tau**2 * output.penalty).item()


@pytest.mark.parametrize("tau", [0.0, 0.5])
def test_the_adversary_ascends_and_the_backbone_descends(tau):
    """A step against each gradient, as an optimizer takes it: up for the adversary, down for the backbone.

    The mask is a step function of the adversary's weights, so the step must be long enough to change units; what it
    changes must then be for the better, over several batches.
    """
    gains, losses = [], []
    for seed in range(8):
        model, batch = asa(tau=tau, seed=seed, initializer_range=0.12), tiny_batch(seed=seed)
        found, output = training_step(model, batch)
        before = objective(model, batch)
        parameters = dict(model.named_parameters())
        original = {name: parameter.detach().clone() for name, parameter in parameters.items()}

        def step(prefix, size, parameters=parameters, original=original, found=found):
            chosen = [name for name in found if name.startswith(prefix)]
            norm = torch.stack([found[name].norm() for name in chosen]).norm()
            with torch.no_grad():
                for name, parameter in parameters.items():
                    moved = size * found[name] / norm if name in chosen else 0.0
                    parameter.copy_(original[name] - moved)

        step("adversaries", 0.05)
        gains.append(objective(model, batch) - before)
        step("backbone", 1e-4)
        losses.append((model(**batch).loss - output.loss).item())
    assert sum(gain > 0 for gain in gains) >= 7
    assert sum(gains) > 0
    assert all(loss < 0 for loss in losses)


def test_penalty_alone_opens_the_mask():
    model, batch = asa(tau=100.0), tiny_batch()
    optimizer = torch.optim.SGD(model.adversaries.parameters(), lr=1e-6)
    rates = []
    for _ in range(60):
        _, output = training_step(model, batch)
        rates.append(output.keep_rate.mean().item())
        optimizer.step()
    assert rates[0] < 0.8
    assert rates[-1] > 0.95


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("attention", ATTENTIONS)
def test_the_adversary_gradient_under_autocast_is_that_of_float32(attention, dtype):
    """One layer, whose input is the same in either precision, so that the masks are equal."""
    settings = {"attention": attention, "dtype": torch.float32, "initializer_range": 0.15, "num_hidden_layers": 1}
    model, batch = asa(**settings), tiny_batch()
    for tau in (0.0, 0.5):
        model.tau = tau
        expected, _ = training_step(model, batch)
        with torch.autocast("cpu", dtype):
            actual, _ = training_step(model, batch)
        for name in ("adversaries.0.query.weight", "adversaries.0.query.bias", "adversaries.0.key.weight"):
            assert relative_error(actual[name], expected[name]) < 0.05, (tau, name)


def test_adversaries_that_were_cast_still_score_in_float32():
    states = torch.randn(2, 5, 24)
    adversary = asa(dtype=torch.float32).adversaries[0].to(torch.bfloat16)
    scores = adversary(states.bfloat16())
    assert scores.dtype == torch.float32
    adversary.float()
    assert torch.equal(scores, adversary(states.bfloat16()))


@pytest.mark.parametrize("model_type", ["bert", "distilbert", "deberta"])
def test_below_frozen_weights_the_attention_has_a_gradient(model_type):
    """On CUDA SDPA cannot have a mask that alone needs one; the adversary's gradient is the same."""
    expected, _ = training_step(AsaModel(tiny_backbone(model_type)), tiny_batch())
    model = AsaModel(tiny_backbone(model_type))
    first = encoder_layers(model.backbone)[0]
    for module in (model.backbone.base_model.embeddings, first):
        module.requires_grad_(False)
    read = []
    first.register_forward_pre_hook(
        lambda _, args, kwargs: read.append((args[0] if args else kwargs["hidden_states"]).requires_grad),
        with_kwargs=True,
    )
    found, _ = training_step(model, tiny_batch())
    assert read == [False, True]  # the plain pass, and the adversarial one
    for name in ("adversaries.0.query.weight", "adversaries.2.key.weight"):
        assert torch.equal(found[name], expected[name])


def test_a_scaled_fp16_loss_does_not_overflow_in_the_adversary():
    model, batch = asa(dtype=torch.float32, initializer_range=0.15), tiny_batch()
    with torch.autocast("cpu", torch.float16):
        output = model.train()(**batch)
    (output.loss * 2**10).backward()
    gradient = model.adversaries[0].query.weight.grad
    assert gradient.isfinite().all()
    assert gradient.norm() > 0


# --- encoders ---


@pytest.mark.parametrize("head", sorted(HEADS))
@pytest.mark.parametrize(("model_type", "attention"), ENCODERS)
def test_every_encoder_with_every_head(model_type, head, attention):
    model = asa(model_type, head, attention)
    found, output = training_step(model, tiny_batch(head))
    assert output.keep_rate.shape == (3,)
    assert output.adv_logits.shape == output.logits.shape
    assert not torch.equal(output.adv_logits, output.logits)
    for layer in range(3):
        assert found[f"adversaries.{layer}.query.weight"].norm() > 0
        assert found[f"adversaries.{layer}.key.weight"].norm() > 0


def test_both_attentions_agree():
    for model_type in (model_type for model_type, attention in ENCODERS if attention == "sdpa"):
        eager, sdpa = (training_step(asa(model_type, attention=attention), tiny_batch()) for attention in ATTENTIONS)
        assert relative_error(eager[1].loss, sdpa[1].loss) < 1e-12
        for name in ("adversaries.0.query.weight", "adversaries.2.key.weight"):
            assert relative_error(eager[0][name], sdpa[0][name]) < 1e-10


def test_the_batch_without_padding_needs_no_mask():
    model, batch = asa(), tiny_batch(lengths=(5, 5))
    _, expected = training_step(model, batch)
    _, output = training_step(model, {name: tensor for name, tensor in batch.items() if name != "attention_mask"})
    assert relative_error(output.loss, expected.loss) < 1e-12


@pytest.mark.parametrize("one_forward", [False, True])
def test_gradient_checkpointing_changes_nothing(one_forward):
    expected, _ = training_step(asa(), tiny_batch())
    model = asa()
    model.one_forward = one_forward
    model.backbone.gradient_checkpointing_enable()
    actual, _ = training_step(model, tiny_batch())
    for name, gradient in expected.items():
        assert (actual[name] - gradient).norm() <= 1e-12 * gradient.norm() + 1e-15, name


@pytest.mark.parametrize("model_type", ["bart", "llama", "gpt2"])
def test_other_model_types_are_refused(model_type):
    config = AutoConfig.for_model(model_type)
    backbone = torch.nn.Module()
    backbone.config = config
    with pytest.raises(ValueError, match=f"model type '{model_type}' is not supported.*albert, bert, camembert"):
        AsaModel(backbone)


@pytest.mark.parametrize("attention", ["flash_attention_2", "flex_attention"])
def test_attention_without_a_mask_gradient_is_refused(attention):
    backbone = tiny_backbone()
    backbone.config._attn_implementation_internal = attention
    with pytest.raises(ValueError, match=f"'{attention}' gives the mask no gradient: use one of eager, sdpa"):
        AsaModel(backbone)


def test_adversaries_and_divergence_of_a_backbone_in_half_precision_are_in_float32():
    model = AsaModel(tiny_backbone(dtype=torch.bfloat16))
    assert {parameter.dtype for parameter in model.adversaries.parameters()} == {torch.float32}
    assert training_step(model, tiny_batch())[1].divergence.dtype == torch.float32


@pytest.mark.parametrize("std", [0.02, 0.3])
def test_adversaries_are_drawn_as_the_encoder_s_weights_are(std):
    for adversary in AsaModel(tiny_backbone(initializer_range=std)).adversaries:
        for linear in (adversary.query, adversary.key):
            assert linear.weight.std().item() == pytest.approx(std, rel=0.15)
            assert abs(linear.weight.mean().item()) < 0.2 * std
            assert not linear.bias.any()


def test_a_regression_with_several_outputs():
    backbone = tiny_backbone(problem_type="regression")
    batch = tiny_batch() | {"labels": torch.rand(4, 3, dtype=torch.float64)}
    output = AsaModel(backbone, one_forward=True).train()(**batch)
    assert relative_error(output.task_loss, ((output.logits - batch["labels"]) ** 2).mean()) < 1e-12
    expected = ((output.logits - output.adv_logits) ** 2).mean()
    assert expected > 1e-4
    assert relative_error(output.divergence, expected) < 1e-12
    compared = output.logits, output.adv_logits, batch["labels"]
    assert torch.equal(EmbeddingNoise(backbone).apart(*compared), output.divergence)
    with pytest.raises(ValueError, match="no regression with several outputs"):
        AsaModel(backbone, protocol="release").train()(**batch)


def test_checkpointing_is_enabled_by_either_name():
    for name in ("activation", "gradient"):
        model = AsaModel(tiny_backbone())
        getattr(model, f"{name}_checkpointing_enable")(**{f"{name}_checkpointing_kwargs": {"use_reentrant": False}})
        assert model.backbone.is_gradient_checkpointing
        with pytest.raises(ValueError, match="reentrant"):
            getattr(model, f"{name}_checkpointing_enable")({"use_reentrant": True})


def test_what_training_needs_is_said():
    batch = tiny_batch()
    with pytest.raises(ValueError, match="protocol 'papre' is unknown: choose one of corrected, release"):
        AsaModel(tiny_backbone(), protocol="papre")
    del batch["labels"]
    with pytest.raises(ValueError, match="needs labels"):
        asa().train()(**batch)
    with pytest.raises(ValueError, match="needs input_ids or inputs_embeds"):
        asa().train()(labels=torch.ones(4).long())
    several = AutoModelForSequenceClassification.from_config(
        AutoConfig.for_model("bert", **SIZES["bert"], problem_type="multi_label_classification", num_labels=3)
    )
    with pytest.raises(ValueError, match="multi-label"):
        AsaModel(several).train()(**batch, labels=torch.ones(4, 3))
