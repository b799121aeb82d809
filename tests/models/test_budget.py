"""The row budget: which keys it hides, what gradient it gives, and that everything ASA works with it works with."""

import math

import pytest
import torch
from asa_models import training_step
from conftest import HEADS, gradients, relative_error, tiny_backbone, tiny_batch
from test_encoder_types import FLOAT32_SOFTMAX, TYPES, assert_same_gradients, copied_step

from models.asa import AsaModel
from models.baselines import RandomMask
from models.budget import EPS, RowBudget, hidden_keys, spread, thresholds

LENGTHS = (9, 4, 6, 2)  # of `tiny_batch`


def make(*given, budget: float = 0.3, layers=None, one_forward=False, **settings) -> AsaModel:
    return AsaModel(tiny_backbone(*given, **settings), budget=budget, layers=layers, one_forward=one_forward)


def drawn(rows: int, length: int, seed: int = 3) -> torch.Tensor:
    return torch.randn(rows, length, length, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def visible_and_real(*lengths: int) -> tuple[torch.Tensor, torch.Tensor]:
    real = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    return real[:, None, :], real[:, :, None]


# --- the rule ---


@pytest.mark.parametrize(
    ("beta", "counts"), [(0.1, {1: 0, 2: 1, 14: 1, 25: 2, 26: 3}), (1.0, {0: 0, 1: 0, 2: 1, 9: 8})]
)
def test_how_many_keys_are_hidden(beta, counts):
    """At least one, and at most all but one; halves are rounded to even numbers, as Python does it."""
    assert {keys: hidden_keys(beta, 30)[keys] for keys in counts} == counts


@pytest.mark.parametrize("beta", [0.05, 0.3, 0.9])
def test_thresholds_and_masks_by_value(beta):
    lengths, score = (12, 1, 5, 2), drawn(4, 12)
    visible, real = visible_and_real(*lengths)
    found = thresholds(score, visible & real, beta)
    keep, bias = RowBudget(beta)(score, visible, real)
    for row, length in enumerate(lengths):
        for query in range(12):
            scores = sorted(score[row, query, :length].tolist())
            hidden = min(max(1, round(beta * length)), length - 1) if query < length else 0
            middle = (scores[hidden - 1] + scores[hidden]) / 2 if hidden else -torch.inf
            assert found[row, query].item() == middle
            kept = [key < length and score[row, query, key].item() > middle for key in range(12)]
            assert keep[row, query].tolist() == kept
            assert sum(kept) == length - hidden
    assert torch.equal(bias, (1 - keep) * math.log(EPS))


def test_equal_scores_share_a_fate():
    """As the threshold alone decides; a row of which all would be hidden stays as it is."""
    score = torch.tensor([[1.0, 2.0, 2.0, 3.0, 4.0], [1.0, 1.0, 2.0, 3.0, 4.0], [7.0] * 5], dtype=torch.float64)
    visible, real = visible_and_real(5)
    score = score[None, [0, 1, 2, 0, 0]].requires_grad_()
    keep, bias = RowBudget(0.4)(score, visible, real)  # two of five
    assert keep[0, :3].tolist() == [[0, 0, 0, 1, 1], [0, 0, 1, 1, 1], [0, 0, 0, 0, 0]]
    bias.sum().backward()
    assert score.grad[0, 2].tolist() == [-0.25] * 5  # of a gate of 1, as the row is not masked; sigma'(0) is 1/4
    model, batch = make(), tiny_batch()
    for adversary in model.adversaries:
        torch.nn.init.zeros_(adversary.query.weight)
    found, output = training_step(model, batch)
    assert output.divergence < 1e-20
    assert output.fully_masked == 1
    assert found["adversaries.0.query.weight"].isfinite().all()


def test_two_scores_without_a_number_between_them():
    low = torch.tensor(1.0)
    score = torch.stack([low, torch.nextafter(low, torch.tensor(2.0))]).expand(1, 2, 2)
    for each in (score, score.flip(-1)):
        assert RowBudget(0.1)(each, *visible_and_real(2))[0].sum(-1).tolist() == [[1.0, 1.0]]


def test_the_gradient_is_that_of_a_gate_that_multiplies_the_weight():
    """A central difference of the gate: of kept keys at 1, and of hidden ones at EPS."""
    lengths, value = (6, 3), drawn(2, 6, seed=4)
    score, attention = drawn(2, 6).requires_grad_(), drawn(2, 6, seed=5)
    visible, real = visible_and_real(*lengths)

    def loss(bias: torch.Tensor) -> torch.Tensor:
        weight = (attention + bias).masked_fill(~visible, -torch.inf).softmax(-1)
        return ((weight @ value) ** 3 * real).sum()

    keep, bias = RowBudget(0.3)(score, visible, real)
    loss(bias).backward()
    gate = torch.where(keep == 1, 1.0, EPS).double()
    pairs = visible & real
    scale = score[pairs].std()  # of all pairs, as a sample
    assert relative_error(spread(score.detach(), pairs), scale) < 1e-12
    slope = torch.sigmoid((score - thresholds(score, pairs, 0.3)) / scale)
    for row, query, key in pairs.nonzero().tolist():
        z = gate[row, query, key]
        ends = []
        for sign in (1, -1):
            moved = gate.clone()
            moved[row, query, key] = z * (1 + sign * 1e-5)
            ends.append(loss(moved.log()))
        of_gate = (ends[0] - ends[1]) / (2e-5 * z)
        at = slope[row, query, key]
        expected = -of_gate * at * (1 - at)
        assert score.grad[row, query, key].item() == pytest.approx(expected.item(), rel=1e-4, abs=1e-7)
    assert not score.grad[~pairs].any()
    assert (score.grad[(keep == 0) & pairs].abs() > 1e-4).all()  # a hidden key can come back


def test_a_step_makes_the_masked_prediction_differ_more():
    """Down the gradient, as an optimizer goes: the adversary ascends the divergence."""
    model, batch = make(initializer_range=0.1), tiny_batch()
    _, before = training_step(model, batch)
    for parameter in model.adversaries.parameters():
        parameter.data.sub_(0.02 * parameter.grad / parameter.grad.norm())
    moved = [training_step(model, batch)[1].divergence for _ in range(1)]
    assert moved[0] > before.divergence


@pytest.mark.parametrize("beta", [0.0, -0.1, 1.5, float("nan")])
def test_budgets_that_are_none(beta):
    with pytest.raises(ValueError, match=r"the share of the keys to hide is above 0, up to 1"):
        make(budget=beta)


# --- the model ---


def expected_keep_rate(window: int = 9) -> float:
    """Of all pairs of `tiny_batch`, where a query sees `window` keys to either side."""
    keys = [sum(abs(query - key) <= window for key in range(length)) for length in LENGTHS for query in range(length)]
    return sum(count - hidden_keys(0.3, 9)[count] for count in keys) / sum(keys)


@pytest.mark.parametrize(("model_type", "attention"), TYPES)
def test_every_encoder_type(model_type, attention):
    """What is hidden, padding, and both implementations of attention."""
    eager_float32 = (model_type, attention) == ("modernbert", "eager")
    dtype = torch.float32 if eager_float32 else torch.float64
    tolerance = 1e-4 if attention == "eager" and model_type in FLOAT32_SOFTMAX else 1e-8
    model = make(model_type, attention=attention, dtype=dtype)
    expected, output = copied_step(model, tiny_batch())
    # In its last layer, as in a first one without positions equal tokens have equal scores.
    rate = expected_keep_rate(2 if model_type == "modernbert" else 9)
    assert output.keep_rate[-1].item() == pytest.approx(rate)
    assert "penalty" not in output
    assert torch.equal(output.loss, output.task_loss + output.divergence)
    for layer in range(3):
        assert expected[f"adversaries.{layer}.query.weight"].norm() > 1e-6, layer
    found, padded = copied_step(model, tiny_batch(padded_to=17))
    for name in ("loss", "divergence", "keep_rate"):
        assert relative_error(padded[name], output[name]) < tolerance, name
    assert_same_gradients(found, expected, tolerance)
    if attention == "sdpa" and model_type not in FLOAT32_SOFTMAX:
        found, eager = copied_step(make(model_type, attention="eager"), tiny_batch())
        assert relative_error(output.adv_logits, eager.adv_logits) < tolerance
        assert_same_gradients(found, expected, tolerance)


@pytest.mark.parametrize("head", sorted(HEADS))
def test_every_head_in_one_forward_and_checkpointed(head):
    expected, output = copied_step(make("bert", head), tiny_batch(head))
    model = make("bert", head, one_forward=True)
    for again in range(2):
        found, one = copied_step(model, tiny_batch(head))
        assert relative_error(one.loss, output.loss) < 1e-10, again
        assert_same_gradients(found, expected, 1e-8)
        model.activation_checkpointing_enable()


@pytest.mark.parametrize("one_forward", [False, True])
def test_a_row_with_one_key_hides_nothing(one_forward):
    found, output = training_step(make(one_forward=one_forward), tiny_batch(lengths=(1, 1)))
    assert output.keep_rate.tolist() == [1.0] * 3
    assert output.divergence.abs() < 1e-20
    assert not any(gradient.any() for name, gradient in found.items() if name.startswith("adversaries"))
    _, output = training_step(make(one_forward=one_forward), tiny_batch(lengths=(1, 2, 1)))
    assert output.keep_rate.tolist() == [4 / 6] * 3


def test_some_layers():
    found, output = training_step(make(layers=[0, 2]), tiny_batch())
    assert output.keep_rate.tolist() == pytest.approx([expected_keep_rate()] * 2)
    numbers = {name.split(".")[1] for name in found if name.startswith("adversaries")}
    assert numbers == {"0", "2"}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_lower_precision(attention, dtype):
    """One layer, whose input is the same in either precision, so that the masks are equal; the loss scaled, as in fp16.

    Without a scale, what fp16 holds of the gradient of a hidden key's small weight is coarse.
    """
    settings = {"attention": attention, "dtype": torch.float32, "initializer_range": 0.15, "num_hidden_layers": 1}
    batch = tiny_batch()
    expected, exact = copied_step(make(**settings), batch)
    model, scale = make(**settings).train(), 2.0**10
    with torch.autocast("cpu", dtype):
        output = model(**batch)
    (scale * output.loss).backward()
    found = {name: gradient / scale for name, gradient in gradients(model).items()}
    assert torch.equal(output.keep_rate, exact.keep_rate)
    assert relative_error(output.adv_logits, exact.adv_logits) < 0.02
    for part in ("query", "key"):
        name = f"adversaries.0.{part}.weight"
        assert relative_error(found[name], expected[name]) < 0.05, name


@pytest.mark.parametrize("one_forward", [False, True])
def test_random_masks_that_hide_as_much(one_forward):
    """The control: the same counts and the same bias, of keys that are drawn."""
    model = RandomMask(tiny_backbone(), keep_rate=0.9, budget=0.3, one_forward=one_forward).train()
    kept = []
    original = model.rule

    def noting(*given):
        keep, bias = original(*given)
        kept.append(keep)
        assert sorted(bias.unique().tolist()) == pytest.approx([original.hidden_score, 0.0])
        return keep, bias

    model.rule = noting
    output = model(**tiny_batch())
    assert output.keep_rate.tolist() == pytest.approx([expected_keep_rate()] * 3)
    assert "penalty" not in output
    assert not torch.equal(kept[0], kept[1])
