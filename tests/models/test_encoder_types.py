"""Every row of the table of encoders does what its fields say; everything outside of it is refused with the reason."""

import argparse
import copy
import functools

import pytest
import torch
from asa_models import close, training_step
from conftest import BERT_SIZES, HEADS, SIZES, gradients, relative_error, tiny_backbone, tiny_batch
from script_runs import message
from torch.nn import functional
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForPreTraining,
    AutoModelForQuestionAnswering,
    BertLMHeadModel,
    BertModel,
    BertPreTrainedModel,
)
from transformers.modeling_outputs import SequenceClassifierOutput

from models import methods
from models.asa import AsaModel
from models.checkpoints import load_release_checkpoint, release_state_dict
from models.encoder_types import ENCODER_TYPES, REFUSED_TYPES, encoder_layers
from models.encoder_types import HEADS as OF_THE_LIBRARY
from models.encoders import attention_implementation, load_config
from models.tokenizer import positions

TYPES = [(model_type, attention) for model_type, row in ENCODER_TYPES.items() for attention in row.attention]
HEAD_OF = dict(zip("SCTM", HEADS, strict=True))
# Whose eager attention computes its softmax in float32.
FLOAT32_SOFTMAX = ("eurobert", "layoutlm", "modernbert")
# Those of them with local attention: where float64's mask hides a whole row, float32 has -inf alone, and nan after it.
FLOAT32_EAGER = ("modernbert",)
DEBERTAS = [model_type for model_type, row in ENCODER_TYPES.items() if row.scores]


def make(model_type: str, attention: str = "", head: str = "sequence", tau: float = 0.5, seed: int = 0, **settings):
    """An `AsaModel` in float64, where the library's attention knows it."""
    dtype = torch.float32 if model_type in FLOAT32_EAGER and attention == "eager" else torch.float64
    return AsaModel(tiny_backbone(model_type, head, attention, dtype=dtype, seed=seed, **settings), tau=tau)


def copied_step(model, batch):
    found, output = training_step(model, batch)
    return {name: gradient.clone() for name, gradient in found.items()}, output


def assert_same_gradients(actual: dict, expected: dict, tolerance: float) -> None:
    assert actual.keys() == expected.keys()
    largest = max(gradient.norm() for gradient in expected.values())
    for name, gradient in expected.items():
        # A key's bias has no gradient but rounding, as attention ignores what is added to every score.
        assert (actual[name] - gradient).norm() <= tolerance * (gradient.norm() + 1e-3 * largest), name


@pytest.mark.parametrize(("model_type", "attention"), TYPES)
def test_a_row_of_the_table(model_type, attention, tmp_path, monkeypatch):
    exact = attention == "sdpa" or model_type not in FLOAT32_SOFTMAX
    tolerance = 1e-9 if exact else 1e-4
    check_evaluation(model_type, attention)
    for head in ENCODER_TYPES[model_type].heads:
        check_padding(model_type, attention, HEAD_OF[head], tolerance)
    check_gradient_of_the_mask(model_type, attention)
    check_all_kept(model_type, attention)
    if attention == "eager":
        check_forced_mask(model_type, 1e-12 if exact else 1e-5, monkeypatch)
    else:
        check_both_attentions_agree(model_type, 1e-9 if model_type not in FLOAT32_SOFTMAX else 1e-3)
    check_checkpointing(model_type, attention, tolerance)
    if attention == ENCODER_TYPES[model_type].attention[0]:
        check_saving(model_type, tmp_path)


def check_evaluation(model_type, attention):
    model, batch = make(model_type, attention).eval(), tiny_batch()
    plain = tiny_backbone(model_type, attention=attention, dtype=next(model.parameters()).dtype).eval()
    assert torch.equal(model(**batch).logits, plain(**batch).logits)
    assert model(**batch).loss == plain(**batch).loss


def check_padding(model_type, attention, head, tolerance):
    model = make(model_type, attention, head)
    expected, output = copied_step(model, tiny_batch(head))
    actual, padded = training_step(model, tiny_batch(head, padded_to=17))
    for name in ("loss", "divergence", "penalty", "keep_rate", "fully_masked"):
        assert relative_error(padded[name], output[name]) < tolerance, (head, name)
    assert output.adv_logits.shape == output.logits.shape
    assert_same_gradients(actual, expected, tolerance)


def check_gradient_of_the_mask(model_type, attention):
    """Without the penalty, which has a gradient of its own."""
    found, output = training_step(make(model_type, attention, tau=0.0), tiny_batch())
    assert output.divergence > 0
    for layer in range(3):
        for part in ("query", "key"):
            assert found[f"adversaries.{layer}.{part}.weight"].norm() > 1e-3, (layer, part)


def check_all_kept(model_type, attention):
    model = make(model_type, attention).train()
    for adversary in model.adversaries:
        close(adversary)
        torch.nn.init.ones_(adversary.query.bias)
    output = model(**tiny_batch())
    assert output.divergence.abs() < 1e-12
    assert output.keep_rate.tolist() == [1.0] * 3


def check_forced_mask(model_type, tolerance, monkeypatch):
    """The logits are those of an attention in which the masked pairs score 10000 less."""
    model, batch = make(model_type, "eager").eval(), tiny_batch()
    generator = torch.Generator().manual_seed(2)
    keep = torch.rand(3, 4, 9, 9, generator=generator) < 0.5
    keep |= torch.eye(9, dtype=torch.bool)
    inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
    with torch.no_grad(), monkeypatch.context() as patched:
        for adversary, kept in zip(model.adversaries, keep, strict=True):
            patched.setattr(adversary, "forward", lambda _, kept=kept: torch.where(kept, 1.0, -1.0))
        with model.adversarial_mode(batch["attention_mask"]):
            forced = model.backbone(**inputs).logits
    biases = [torch.where(kept, 0.0, -1e4)[:, None] for kept in keep]
    softmax = functional.softmax

    def with_bias(scores, *arguments, **settings):
        return softmax(scores + biases.pop(0) if scores.ndim == 4 else scores, *arguments, **settings)

    with torch.no_grad(), monkeypatch.context() as patched:
        patched.setattr(functional, "softmax", with_bias)
        expected = model.backbone(**inputs).logits
    assert biases == []
    assert relative_error(forced, expected) < tolerance
    with torch.no_grad():
        assert relative_error(forced, model.backbone(**inputs).logits) > 1e-3


def check_both_attentions_agree(model_type, tolerance):
    batch = tiny_batch()
    found, output = copied_step(make(model_type, "sdpa"), batch)
    eager, expected = copied_step(make(model_type, "eager"), batch)
    assert relative_error(output.adv_logits, expected.adv_logits) < tolerance
    assert_same_gradients(found, eager, tolerance)


def check_checkpointing(model_type, attention, tolerance):
    model, batch = make(model_type, attention), tiny_batch()
    if not model.backbone.supports_gradient_checkpointing:
        return
    expected, output = copied_step(model, batch)
    model.activation_checkpointing_enable()
    for one_forward in (False, True):
        model.one_forward = one_forward
        actual, again = training_step(model, batch)
        assert relative_error(again.loss, output.loss) < tolerance
        assert_same_gradients(actual, expected, tolerance)


def check_saving(model_type, folder):
    """A stock folder, and the state under the release's names."""
    batch = tiny_batch()
    model, other = make(model_type), make(model_type, seed=1)
    model.backbone.save_pretrained(folder)
    stock = HEADS["sequence"].from_pretrained(folder, attn_implementation=model.config._attn_implementation)
    assert torch.equal(stock.eval()(**batch).logits, model.eval()(**batch).logits)
    load_release_checkpoint(other, release_state_dict(model))
    expected, output = copied_step(model, batch)
    found, again = training_step(other, batch)
    assert torch.equal(again.loss, output.loss)
    assert all(torch.equal(found[name], gradient) for name, gradient in expected.items())


# --- the table ---


def test_the_table_is_the_library_s():
    for model_type, row in ENCODER_TYPES.items():
        config = type(AutoConfig.for_model(model_type))
        assert ("sdpa" in row.attention) == AutoModel._model_mapping[config]._supports_sdpa, model_type
        heads = {head for head, classes in OF_THE_LIBRARY.items() if model_type in classes}
        assert heads - set(row.heads) == ({"C"} if model_type == "roformer" else set()), model_type
        assert set(row.heads) <= heads, model_type
        given = attention_implementation(AutoConfig.for_model(model_type), None, training=False, on_cpu=False)
        assert given == row.attention[-1]
    assert not ENCODER_TYPES.keys() & REFUSED_TYPES.keys()


# --- layers that normalise first ---


@pytest.mark.parametrize("model_type", ENCODER_TYPES)
def test_the_adversary_reads_what_the_attention_reads(model_type):
    """Which is what the first linear map of the layer reads, whatever the table says."""
    model, read, projected = make(model_type), [], []
    for name, module in encoder_layers(model.backbone)[-1].named_modules():
        if name and hasattr(module, "weight") and module.weight.ndim == 2:
            module.register_forward_pre_hook(lambda module, inputs: projected.append(inputs[0]))
    model.adversaries[-1].register_forward_pre_hook(lambda module, inputs: read.append(inputs[0]))
    with model.eval().adversarial_mode():
        model.backbone(**tiny_batch())
    first = 2 * len(projected) // 3 if model_type == "albert" else 0  # whose layers are one, called three times
    assert torch.equal(read[0], projected[first])
    assert not read[0].requires_grad


def test_xmod_normalises_first_only_where_its_setting_says_so():
    for pre_norm in (True, False):
        model, seen = make("xmod", pre_norm=pre_norm), {}
        encoder_layers(model.backbone)[0].register_forward_pre_hook(lambda module, inputs: seen.update(layer=inputs[0]))  # noqa: B023
        model.adversaries[0].register_forward_pre_hook(lambda module, inputs: seen.update(read=inputs[0]))  # noqa: B023
        with model.adversarial_mode():
            model.backbone(**tiny_batch())
        assert torch.equal(seen["read"], seen["layer"]) is not pre_norm


# --- local attention ---


@pytest.mark.parametrize("one_forward", [False, True])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_only_pairs_within_the_window_count(attention, one_forward):
    """Two tokens to either side in the last two layers; rows of 9, 4, 6 and 2 tokens."""
    model = make("modernbert", attention, tau=1.0)
    model.one_forward = one_forward
    for adversary in model.adversaries:
        close(adversary)
        torch.nn.init.ones_(adversary.query.bias)
    full = 9**2 + 4**2 + 6**2 + 2**2
    local = sum(abs(i - j) <= 2 for length in (9, 4, 6, 2) for i in range(length) for j in range(length))
    for padded_to in (9, 14):
        output = model.train()(**tiny_batch(padded_to=padded_to))
        assert output.keep_rate.tolist() == [1.0] * 3
        assert output.penalty.item() == (full + 2 * local) / 4
        assert output.fully_masked == 0


def test_a_row_that_keeps_only_keys_outside_of_its_window_is_fully_masked(monkeypatch):
    model, batch = make("modernbert", "sdpa"), tiny_batch(lengths=(9,))
    far = torch.where((torch.arange(9)[:, None] - torch.arange(9)).abs() > 2, 1.0, -1.0)[None]
    for adversary in model.adversaries:
        monkeypatch.setattr(adversary, "forward", lambda _: far)
    with model.eval().adversarial_mode(batch["attention_mask"]) as record:
        logits = model.backbone(**batch).logits
    assert [share.item() for share in record.fully_masked] == [0.0, 1.0, 1.0]
    assert [rate.item() for rate in record.keep_rate[1:]] == [0.0, 0.0]
    assert logits.isfinite().all()


# --- the bias of DeBERTa's scores ---


def left_behind(model) -> list[str]:
    """What the attentions of a DeBERTa have of their own beside what a new one has."""
    new = vars(encoder_layers(tiny_backbone(model.config.model_type))[0].attention.self)
    return [name for layer in encoder_layers(model.backbone) for name in vars(layer.attention.self) if name not in new]


@pytest.mark.parametrize("one_forward", [False, True])
@pytest.mark.parametrize("model_type", DEBERTAS)
def test_the_bias_of_the_scores_leaves_nothing_behind(model_type, one_forward, monkeypatch):
    model, batch = make(model_type), tiny_batch()
    model.one_forward = one_forward
    before = model.eval()(**batch).logits
    training_step(model, batch)
    assert left_behind(model) == []
    model.activation_checkpointing_enable()
    training_step(model, batch)
    assert left_behind(model) == []
    attention = encoder_layers(model.backbone)[1].attention.self
    with monkeypatch.context() as patched:
        patched.setattr(attention.dropout, "forward", lambda probabilities: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            model.train()(**batch)
        assert left_behind(model) == []

        def interrupted(probabilities):
            raise KeyboardInterrupt

        patched.setattr(attention.dropout, "forward", interrupted)
        with pytest.raises(KeyboardInterrupt):
            model.train()(**batch)
        assert left_behind(model) == []
    assert torch.equal(model.eval()(**batch).logits, before)
    assert left_behind(model) == []


@pytest.mark.parametrize(
    ("model_type", "changes"),
    [
        *((model_type, {"pos_att_type": kinds}) for model_type in DEBERTAS for kinds in (["c2p"], ["p2c"], [])),
        *((model_type, {"position_biased_input": False}) for model_type in DEBERTAS),
        ("deberta-v2", {"share_att_key": True}),
        ("deberta-v2", {"position_buckets": -1, "conv_kernel_size": 0, "norm_rel_ebd": "none"}),
    ],
)
def test_every_kind_of_disentangled_attention(model_type, changes, monkeypatch):
    settings = functools.partial(make, model_type, **changes)
    monkeypatch.setitem(globals(), "make", lambda *_, **given: settings(**given))
    check_gradient_of_the_mask(model_type, "eager")
    check_forced_mask(model_type, 1e-12, monkeypatch)


def test_deberta_v2_under_autocast():
    model, batch = AsaModel(tiny_backbone("deberta-v2", dtype=torch.float32, initializer_range=0.1)), tiny_batch()
    expected, _ = copied_step(model, batch)
    with torch.autocast("cpu", torch.bfloat16):
        found, output = training_step(model, batch)
    assert output.loss.isfinite()
    assert relative_error(found["adversaries.0.query.weight"], expected["adversaries.0.query.weight"]) < 0.1


# --- what is refused ---


@pytest.mark.parametrize(
    ("model_type", "why"),
    [*REFUSED_TYPES.items(), ("bart", None), ("t5", None)],
)
def test_a_type_outside_of_the_table(model_type, why, tmp_path):
    backbone = torch.nn.Module()
    backbone.config = AutoConfig.for_model(model_type)
    said = f"model type '{model_type}' is not supported{f', as {why}' if why else ''}; use one of albert, bert, "
    with pytest.raises(ValueError, match=r"tested with$") as error:
        AsaModel(backbone)
    assert str(error.value).startswith(said)
    backbone.config.save_pretrained(tmp_path)
    assert message(load_config, str(tmp_path), None, None).startswith(f"--load_model_path {tmp_path}: {said}")


class OwnHead(BertPreTrainedModel):
    def __init__(self, config):
        super().__init__(config)
        self.bert = BertModel(config)
        self.out = torch.nn.Linear(config.hidden_size, 3)
        self.post_init()

    def forward(self, input_ids, attention_mask=None, labels=None, return_dict=None):
        logits = self.out(self.bert(input_ids, attention_mask).last_hidden_state[:, 0])
        loss = None if labels is None else functional.cross_entropy(logits, labels)
        return SequenceClassifierOutput(loss=loss, logits=logits)


def test_a_head_of_one_s_own():
    model = AsaModel(OwnHead(AutoConfig.for_model("bert", **BERT_SIZES)))
    found, _ = training_step(model, tiny_batch())
    assert found["adversaries.0.query.weight"].norm() > 0


def config(model_type: str = "bert", **changes):
    return AutoConfig.for_model(model_type, **SIZES[model_type] | changes)


OTHER_HEADS = "ASA is for the heads of sequence classification, multiple choice"


@pytest.mark.parametrize(
    ("backbone", "said"),
    [
        (lambda: torch.nn.Linear(2, 2), "model type 'Linear' is not supported; use one of"),
        (lambda: BertLMHeadModel(config(is_decoder=True)), "bert with is_decoder=True is not supported, as ASA is for"),
        (lambda: tiny_backbone(is_decoder=True, add_cross_attention=True), "is_decoder=True is not supported"),
        (lambda: AutoModelForPreTraining.from_config(config("electra")), f"ElectraForPreTraining .*: {OTHER_HEADS}"),
        (lambda: AutoModel.from_config(config()), f"BertModel .*: {OTHER_HEADS}"),
        (lambda: AutoModel.from_config(config("roformer")), f"RoFormerModel .*: {OTHER_HEADS}"),
        (lambda: AutoModelForQuestionAnswering.from_config(config("deberta-v2")), "DebertaV2ForQuestionAnswering is"),
        (
            lambda: tiny_backbone("roformer", "choice"),
            "RoFormerForMultipleChoice is not supported, as its predictions depend on padding",
        ),
        (lambda: tiny_backbone("modernbert", "masked_lm", sparse_prediction=True), "sparse_prediction=True is not"),
        (lambda: tiny_backbone("deberta", relative_attention=False), "deberta with relative_attention=False is not"),
        (
            lambda: tiny_backbone("deberta-v2", relative_attention=False),
            "relative_attention=False is not supported, as",
        ),
        (lambda: tiny_backbone("deberta", talking_head=True), "deberta with talking_head=True is not supported, as it"),
        (lambda: tiny_backbone("ibert", quant_mode=True, dtype=torch.float32), "ibert with quant_mode=True is not"),
    ],
)
def test_models_that_are_refused(backbone, said):
    with pytest.raises(ValueError, match=said):
        AsaModel(backbone())


def test_what_a_script_says_of_them():
    backbone = tiny_backbone("deberta", relative_attention=False)
    args = argparse.Namespace(tau=0.5, protocol="corrected")
    said = message(methods.build, "asa", backbone, args)
    assert said.startswith("--method asa: deberta with relative_attention=False is not supported")
    assert methods.build("naive", backbone, args) is backbone


def test_sparse_prediction_is_of_no_concern_to_other_heads():
    assert training_step(make("modernbert", sparse_prediction=True), tiny_batch())[1].loss.isfinite()


@pytest.mark.parametrize("model_type", ["bert", "modernbert", "deberta-v2"])
def test_attention_masks_that_are_refused(model_type):
    batch = tiny_batch()
    pairs = batch["attention_mask"][:, None] * batch["attention_mask"][:, :, None]  # (B, L, L)
    for mask, given in ((pairs, r"\(4, 9, 9\)"), (pairs[:, None], r"\(4, 1, 9, 9\)"), ({"full": pairs}, "dict")):
        with pytest.raises(ValueError, match=rf"one entry a token, \(4, 9\), not .*{given}"):
            make(model_type).train()(**batch | {"attention_mask": mask})


@pytest.mark.parametrize("model_type", ["bert", "modernbert"])
def test_a_batch_without_a_real_token(model_type):
    batch = tiny_batch()
    batch["attention_mask"][:] = 0
    output = make(model_type, "sdpa").train()(**batch)
    assert output.keep_rate.tolist() == [0.0] * 3
    assert output.fully_masked == 0
    assert output.penalty == 0


def test_reentrant_checkpointing_is_refused():
    model = make("bert")
    with pytest.raises(ValueError, match="must have use_reentrant=False"):
        model.activation_checkpointing_enable({"use_reentrant": True})
    model.backbone.activation_checkpointing_enable({"use_reentrant": True})
    with pytest.raises(ValueError, match="must have use_reentrant=False"):
        model.train()(**tiny_batch())


# --- hooks ---


@pytest.mark.parametrize("model_type", ["bert", "deberta"])
def test_a_copy_of_the_model_is_a_model_of_its_own(model_type):
    model, batch = make(model_type), tiny_batch()
    again = copy.deepcopy(model)
    expected, output = copied_step(model, batch)
    assert gradients(again) == {}
    found, copied = training_step(again, batch)
    assert torch.equal(copied.loss, output.loss)
    assert all(torch.equal(found[name], gradient) for name, gradient in expected.items())
    layer = encoder_layers(again.backbone)[0]
    assert len(layer._forward_pre_hooks) == len(layer._forward_pre_hooks_with_kwargs) == 1
    model.detach()
    with pytest.raises(ValueError, match="detached"):
        copy.deepcopy(model)(**batch)


@pytest.mark.parametrize("model_type", ENCODER_TYPES)
def test_positions_are_those_of_the_embeddings(model_type):
    """As many tokens as `positions` says can be computed, and not one more: some types begin to count above 0."""
    model = tiny_backbone(model_type, max_position_embeddings=12, pad_token_id=1)
    if not any(name.endswith("position_embeddings.weight") for name, _ in model.named_parameters()):
        pytest.skip("no table of positions")
    count = positions(model.config)
    model(input_ids=torch.full((1, count), 7))
    with pytest.raises((IndexError, RuntimeError, ValueError)):
        model(input_ids=torch.full((1, count + 1), 7))


def test_sdpa_is_refused_where_the_library_has_eager_attention_alone():
    config = tiny_backbone("mpnet").config
    assert message(attention_implementation, config, "sdpa", True, True) == (
        "--attn_implementation sdpa: transformers has only eager attention for mpnet models: leave the flag out"
    )
