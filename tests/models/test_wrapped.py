"""`AsaModel` around a backbone: taken off it, copied, pickled, saved, and compiled."""

import copy
import gc
import io
import pickle
import weakref

import pytest
import torch
from asa_models import training_step
from conftest import gradients, relative_error, tiny_backbone, tiny_batch
from torch import nn

from models.asa import AsaModel
from models.encoder_types import encoder_layers


def hooks_of(backbone: nn.Module) -> int:
    return sum(len(module._forward_pre_hooks) + len(module._forward_hooks) for module in backbone.modules())


@pytest.mark.parametrize("model_type", ["bert", "deberta"])
def test_detach_gives_the_backbone_back(model_type):
    backbone = tiny_backbone(model_type)
    model, batch = AsaModel(backbone), tiny_batch()
    assert hooks_of(backbone) == (3 if model_type == "bert" else 9)
    assert model.detach() is backbone
    assert hooks_of(backbone) == 0
    assert torch.equal(model.eval()(**batch).logits, backbone(**batch).logits)
    with pytest.raises(ValueError, match="was detached from its backbone"):
        model.train()(**batch)
    found, _ = training_step(AsaModel(backbone), batch)
    assert found["adversaries.0.query.weight"].norm() > 0


def test_the_backbone_keeps_no_adversary_alive():
    model = AsaModel(tiny_backbone())
    backbone, batch = model.backbone, tiny_batch()
    adversary = weakref.ref(model.adversaries[0])
    gc.disable()  # nor does a circle of references
    try:
        training_step(model, batch)
        del model
        assert adversary() is None
    finally:
        gc.enable()
    assert backbone.train()(**batch).loss.isfinite()
    assert AsaModel(backbone).train()(**batch).penalty > 0


@pytest.mark.parametrize("model_type", ["bert", "deberta", "deberta-v2", "roberta"])
def test_a_backbone_that_was_not_detached_is_wrapped_as_a_new_one(model_type):
    """As in a notebook's cell that is run again; also a copy of the backbone, which has the first one's hooks."""
    protocols = ["release", "corrected"] if model_type == "roberta" else ["corrected", "corrected"]
    changes = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.1} if model_type == "roberta" else {}
    batch = tiny_batch()
    torch.manual_seed(1)
    alone = AsaModel(tiny_backbone(model_type, **changes))
    first = AsaModel(tiny_backbone(model_type, **changes), protocol=protocols[0])
    for backbone in (first.backbone, copy.deepcopy(first.backbone)):
        again = AsaModel(backbone, protocol=protocols[1])
        again.load_state_dict(alone.state_dict())
        found = []
        for model in (alone, again):
            torch.manual_seed(2)
            found.append(training_step(model, batch))
        (expected, output), (gradients_again, output_again) = found
        assert torch.equal(output_again.adv_logits, output.adv_logits)
        assert output.divergence > 0
        for name, gradient in expected.items():
            assert torch.equal(gradients_again[name], gradient), name


@pytest.mark.parametrize("model_type", ["bert", "deberta"])
def test_copies_and_pickles_of_the_backbone_carry_no_adversary(model_type):
    model, batch = AsaModel(tiny_backbone(model_type)), tiny_batch()
    pickled = pickle.dumps(model.backbone)
    assert b"adversaries" not in pickled
    assert len(pickled) < 1.2 * len(pickle.dumps(tiny_backbone(model_type)))
    for again in (copy.deepcopy(model.backbone), pickle.loads(pickled)):
        assert torch.equal(again.eval()(**batch).logits, model.eval()(**batch).logits)
        found, output = training_step(AsaModel(again), batch)
        assert output.penalty > 0
        assert found["adversaries.2.key.weight"].norm() > 0
        assert not any(isinstance(module, type(model.adversaries[0])) for module in again.modules())


def test_a_shallow_copy_is_refused():
    """It would take the hooks of the backbone over, and leave the first model without."""
    with pytest.raises(TypeError, match=r"use copy\.deepcopy"):
        copy.copy(AsaModel(tiny_backbone()))


def test_a_whole_model_is_saved_and_loaded():
    model, batch = AsaModel(tiny_backbone(), tau=0.2), tiny_batch()
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    again = torch.load(file, weights_only=False)
    expected, output = training_step(model, batch)
    found, loaded = training_step(again, batch)
    assert torch.equal(loaded.loss, output.loss)
    assert all(torch.equal(found[name], gradient) for name, gradient in expected.items())
    assert hooks_of(again.backbone) == len(encoder_layers(again.backbone))


@pytest.mark.parametrize("one_forward", [False, True])
def test_one_graph(one_forward):
    model, batch = AsaModel(tiny_backbone(), one_forward=one_forward), tiny_batch()
    expected, output = training_step(model, batch)
    expected = {name: gradient.clone() for name, gradient in expected.items()}
    model.zero_grad()
    compiled = torch.compile(model, backend="eager", fullgraph=True)(**batch)
    compiled.loss.backward()
    assert relative_error(compiled.loss, output.loss) < 1e-12
    for name, gradient in gradients(model).items():
        assert (gradient - expected[name]).norm() <= 1e-10 * expected[name].norm() + 1e-14, name
    torch._dynamo.reset()


@pytest.mark.parametrize("model_type", ["bert", "deberta-v2"])
def test_a_second_model_around_a_backbone_leaves_the_first_as_it_is(model_type):
    backbone, batch = tiny_backbone(model_type), tiny_batch()
    first = AsaModel(backbone).train()
    torch.manual_seed(1)
    before = first(**batch).loss
    second = AsaModel(backbone).train()
    torch.manual_seed(1)
    assert torch.equal(first(**batch).loss, before)
    second(**batch)
    second.detach()
    torch.manual_seed(1)
    assert torch.equal(first(**batch).loss, before)


def test_a_backbone_that_was_changed_is_told():
    model, batch = AsaModel(tiny_backbone()).train(), tiny_batch()
    model.backbone.bert.encoder.layer = model.backbone.bert.encoder.layer[:1]
    with pytest.raises(RuntimeError, match="made for 3 encoder layers, of which 1 were called: the backbone was repl"):
        model(**batch)
    model = AsaModel(tiny_backbone()).train()
    model.backbone.bert.encoder.layer = nn.ModuleList([*model.backbone.bert.encoder.layer] * 2)
    with pytest.raises(RuntimeError, match="of which 4 were called"):
        model(**batch)
