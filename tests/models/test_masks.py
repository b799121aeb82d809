"""The adversarial masks: what they count and hide, with padding and without, in every precision."""

import pytest
import torch
from asa_models import ATTENTIONS, ENCODERS, asa, close, training_step
from conftest import HEADS, relative_error, tiny_batch

from models.asa import KeepMask, combine

# --- padding ---


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("head", sorted(HEADS))
def test_corrected_protocol_does_not_see_padding(head, attention):
    model = asa("bert", head, attention)
    close(model.adversaries[1], open_query=3)  # some rows of this layer are fully masked, others are not
    expected, output = training_step(model, tiny_batch(head))
    assert 0 < output.fully_masked < 0.9
    for extra in (8, 64):
        actual, padded = training_step(model, tiny_batch(head, padded_to=9 + extra))
        for name in ("loss", "task_loss", "divergence", "penalty", "keep_rate", "fully_masked"):
            assert relative_error(padded[name], output[name]) < 1e-10, name
        assert actual.keys() == expected.keys()
        for name, gradient in expected.items():
            assert (actual[name] - gradient).norm() < 1e-10 * gradient.norm() + 1e-14, name


@pytest.mark.parametrize("num_labels", [1, 3])
@pytest.mark.parametrize(("model_type", "attention"), ENCODERS)
def test_padding_with_every_encoder_and_regression(model_type, attention, num_labels):
    model = asa(model_type, attention=attention, num_labels=num_labels)
    expected, output = training_step(model, tiny_batch(num_labels=num_labels))
    actual, padded = training_step(model, tiny_batch(num_labels=num_labels, padded_to=17))
    assert relative_error(padded.loss, output.loss) < 1e-10
    assert max(relative_error(actual[name], gradient) for name, gradient in expected.items() if "key.bias" not in name
               and "k_lin.bias" not in name and ".k.bias" not in name) < 1e-9  # fmt: skip


def test_release_protocol_counts_padding():
    model = asa(protocol="release")
    short, long = model.train()(**tiny_batch()), model(**tiny_batch(padded_to=17))
    assert long.penalty > short.penalty + 1
    assert relative_error(long.task_loss, short.task_loss) < 1e-12


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.05)])
@pytest.mark.parametrize("attention", ATTENTIONS)
def test_padding_in_lower_precision(attention, dtype, tolerance):
    model = asa(attention=attention, dtype=torch.float32, initializer_range=0.1)
    close(model.adversaries[1], open_query=3)
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        expected, output = training_step(model, tiny_batch())
        actual, padded = training_step(model, tiny_batch(padded_to=17))
    assert torch.equal(output.keep_rate, padded.keep_rate)
    assert relative_error(padded.loss, output.loss) < tolerance
    for name in ("adversaries.0.query.weight", "backbone.bert.encoder.layer.0.attention.self.value.weight"):
        assert relative_error(actual[name], expected[name]) < tolerance, name


# --- the mask ---


def test_keep_mask_and_its_gradient_by_value():
    score = torch.tensor([[[-1.0, 0.0, 2.0, 3.0]]], dtype=torch.float64, requires_grad=True)
    real_key = torch.tensor([[[True, True, True, False]]])
    keep = KeepMask.apply(score, real_key)
    assert keep.tolist() == [[[0.0, 0.0, 1.0, 0.0]]]
    (keep * torch.tensor([1.0, 2.0, 3.0, 4.0])).sum().backward()
    gate = torch.sigmoid(torch.tensor([-1.0, 0.0, 2.0], dtype=torch.float64))
    expected = -torch.tensor([1.0, 2.0, 3.0]) * gate * (1 - gate)
    assert torch.allclose(score.grad[0, 0, :3], expected, atol=1e-15)
    assert score.grad[0, 0, 3] == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_combined_mask(dtype):
    bias = torch.tensor([[[0.0, -1e4, -1e4], [0.0, 0.0, -1e4], [-1e4, 0.0, 0.0]]])
    lowest = torch.finfo(dtype).min
    allowed = torch.tensor([True, True, False]).view(1, 1, 1, 3)
    forbidden = torch.zeros(1, 1, 1, 3, dtype=dtype).masked_fill(~allowed, lowest)
    masked = torch.tensor(-1e4, dtype=dtype).item()
    expected = [[0.0, masked, lowest], [0.0, 0.0, lowest], [masked, 0.0, lowest]]
    for incoming in (allowed, forbidden):
        result = combine(bias, incoming, dtype)
        assert result.dtype == dtype
        assert result[0, 0].tolist() == expected
    assert torch.equal(combine(bias, None, dtype)[0, 0], bias[0].to(dtype))


def test_combined_mask_has_the_whole_gradient_where_both_are_zero():
    bias = torch.zeros(1, 2, 2, requires_grad=True)
    combine(bias, torch.zeros(1, 1, 1, 2), torch.float32).sum().backward()
    assert torch.equal(bias.grad, torch.ones(1, 2, 2))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("attention", ATTENTIONS)
def test_fully_masked_rows_attend_as_if_unmasked(attention, dtype):
    half = dtype in (torch.bfloat16, torch.float16)
    model = asa(attention=attention, dtype=torch.float32 if half else dtype, initializer_range=0.1)
    for adversary in model.adversaries:
        close(adversary)
    with torch.autocast("cpu", dtype, enabled=half):
        found, output = training_step(model, tiny_batch())
    assert output.fully_masked == 1
    assert not output.keep_rate.any()
    assert relative_error(output.adv_logits, output.logits) < (0.02 if half else 1e-6)
    # The two predictions are equal, so that the penalty alone moves the adversary: towards keeping more.
    assert found["adversaries.2.query.bias"][0] < 0
    assert all(gradient.isfinite().all() for gradient in found.values())


def test_fully_masked_rows_keep_the_gradient_of_the_mask():
    """The same in every precision and for both attentions; it reaches the adversary with the gain of 1e4."""
    found = {}
    for attention in ATTENTIONS:
        for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
            half = dtype in (torch.bfloat16, torch.float16)
            model = asa(attention=attention, dtype=torch.float32 if half else dtype, initializer_range=0.1)
            for adversary in model.adversaries:
                close(adversary)
            batch = tiny_batch()
            del batch["labels"]
            with model.adversarial_mode(batch["attention_mask"]), torch.autocast("cpu", dtype, enabled=half):
                model.backbone(**batch).logits[:, 0].sum().backward()
            found[attention, dtype] = model.adversaries[0].key.weight.grad
    exact = found["eager", torch.float64]
    assert exact.norm() > 1
    for (attention, dtype), gradient in found.items():
        tolerance = {torch.float64: 1e-12, torch.float32: 1e-4}.get(dtype, 0.05)
        assert relative_error(gradient, exact) < tolerance, (attention, dtype)


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_kept_and_masked_units_of_a_model_by_value(attention):
    """An adversary that keeps one known key: attention in that layer goes to this key alone."""
    model, batch = asa(attention=attention, tau=1.0), tiny_batch(lengths=(4, 4))
    model.eval()
    first = model.adversaries[0]
    close(first)
    hidden = model.backbone.bert.embeddings(batch["input_ids"])
    with torch.no_grad():
        first.query.bias.zero_()
        first.query.bias[0] = 1.0
        first.key.weight[0] = hidden[0, 2]
        first.key.bias[0] = -(hidden @ hidden[0, 2])[0].topk(2).values.mean()
    for adversary in model.adversaries[1:]:
        close(adversary)
    kept = (first(hidden)[0, 0] > 0).nonzero().flatten().tolist()
    assert len(kept) == 1

    seen = {}
    layer = model.backbone.bert.encoder.layer[0]
    layer.attention.self.value.register_forward_hook(lambda module, inputs, value: seen.update(value=value))
    layer.attention.self.register_forward_hook(lambda module, inputs, output: seen.update(context=output[0]))
    inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
    with model.adversarial_mode(batch["attention_mask"]) as record:
        model.backbone(**inputs)
    assert torch.allclose(seen["context"][0], seen["value"][0, kept].expand(4, -1), atol=1e-12)
    assert record.keep_rate[0] == (first(hidden) > 0).double().mean()
