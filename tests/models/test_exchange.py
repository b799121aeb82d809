"""Checkpoints go both ways between this project and the release, and come in from other trainers."""

import json
from pathlib import Path

import pytest
import torch
from conftest import HEADS, tiny_backbone, tiny_batch
from safetensors import safe_open
from safetensors.torch import save_file
from script_runs import message
from transformers import AutoConfig, AutoModel, AutoTokenizer

from models.asa import AsaModel
from models.checkpoints import (
    export,
    load_release_checkpoint,
    plain_names,
    read_state_dict,
    release_state_dict,
    save_checkpoint,
    saved_classes,
    unused_by_us,
)
from models.encoders import load_pretrained

GOLDEN = Path(__file__).parent / "golden"
GOLDEN_HEADS = {"seq": "sequence", "mc": "choice", "tok": "token"}
LINEAR = ("weight", "bias")
# Whether a class of the release has a pooler: AsaBertFor... and AsaRobertaFor..., and without ASA BertFor... and
# RobertaFor...
POOLED = {
    ("bert", "sequence"): (True, True),  # with ASA, without it
    ("bert", "choice"): (True, True),
    ("bert", "token"): (False, False),
    ("roberta", "sequence"): (True, False),
    ("roberta", "choice"): (True, True),
    ("roberta", "token"): (True, False),
}


def release_names(model_type: str, head: str, asa: bool, layers: int = 3) -> set[str]:
    """The names in a state dict of the release."""
    modules = [f"embeddings.{name}_embeddings" for name in ("word", "position", "token_type")]
    names = {f"{module}.weight" for module in modules} | {"embeddings.position_ids"}
    modules = ["embeddings.LayerNorm"]
    for layer in range(layers):
        inside = [f"attention.self.{name}" for name in ("query", "key", "value")]
        inside += ["attention.output.dense", "attention.output.LayerNorm"]
        inside += ["intermediate.dense", "output.dense", "output.LayerNorm"]
        modules += [f"encoder.layer.{layer}.{name}" for name in inside]
        modules += [f"encoder.adversary.{layer}.{name}" for name in ("query", "key") if asa]
    modules += ["pooler.dense"] * POOLED[model_type, head][not asa]
    names |= {f"{module}.{weight}" for module in modules for weight in LINEAR}
    deep = (model_type, head) == ("roberta", "sequence")
    last = ("classifier.dense", "classifier.out_proj") if deep else ("classifier",)
    return {f"{model_type}.{name}" for name in names} | {f"{module}.{weight}" for module in last for weight in LINEAR}


def made(model_type: str, head: str, asa: bool = True, **settings) -> torch.nn.Module:
    backbone = tiny_backbone(model_type, head, **{"dtype": torch.float32} | settings)
    return AsaModel(backbone) if asa else backbone


def of_release(model_type: str, head: str, asa: bool, seed: int) -> dict[str, torch.Tensor]:
    """A random state dict as the release saves it."""
    state = release_state_dict(made(model_type, head, asa, seed=seed))
    hidden = state["classifier.bias" if "classifier.bias" in state else "classifier.dense.bias"].new_zeros(24)
    shapes = {"weight": (24, 24), "bias": hidden.shape}
    generator = torch.Generator().manual_seed(seed)
    for name in release_names(model_type, head, asa) - state.keys():
        if name.endswith("position_ids"):
            state[name] = torch.arange(100)[None]
        else:
            state[name] = torch.rand(shapes[name.rpartition(".")[2]], generator=generator)
    return state


@pytest.mark.parametrize("asa", [True, False])
@pytest.mark.parametrize(("model_type", "head"), POOLED)
def test_a_saved_file_has_the_names_of_the_release(model_type, head, asa, tmp_path):
    """All of them and no other, so that it can be loaded strictly."""
    model = made(model_type, head, asa)
    save_checkpoint(model, tmp_path / "model.bin")
    state = torch.load(tmp_path / "model.bin", weights_only=True)
    assert state.keys() == release_names(model_type, head, asa)
    positions = state[f"{model_type}.embeddings.position_ids"]
    assert (positions.dtype, positions.tolist()) == (torch.int64, [list(range(100))])
    for name, tensor in release_state_dict(model).items():
        assert torch.equal(state[name], tensor), name
    if POOLED[model_type, head][not asa]:
        weight, bias = (state[f"{model_type}.pooler.dense.{name}"] for name in LINEAR)
        assert (weight.shape, weight.dtype, bias.shape) == ((24, 24), torch.float32, (24,))
        assert weight.std() == pytest.approx(0.3, rel=0.1)
    save_checkpoint(model, tmp_path / "again.bin")
    again = torch.load(tmp_path / "again.bin", weights_only=True)
    assert all(torch.equal(again[name], tensor) for name, tensor in state.items())


@pytest.mark.parametrize("asa", [True, False])
@pytest.mark.parametrize(("model_type", "head"), POOLED)
def test_a_checkpoint_of_the_release_goes_in_and_out_again(model_type, head, asa, tmp_path):
    state = of_release(model_type, head, asa, seed=1)
    torch.save(state, tmp_path / "theirs.bin")
    model = made(model_type, head, asa, seed=2)
    load_release_checkpoint(model, tmp_path / "theirs.bin")
    for name, tensor in release_state_dict(model).items():
        assert torch.equal(tensor, state[name]), name
    save_checkpoint(model, tmp_path / "ours.bin")
    ours = read_state_dict(tmp_path / "ours.bin")
    assert ours.keys() == state.keys()
    assert all(torch.equal(ours[name], tensor) for name, tensor in state.items())

    plain = made(model_type, head, asa=False, seed=3).eval()
    load_release_checkpoint(plain, state)
    batch = tiny_batch(head)
    assert torch.equal(plain(**batch).logits, model.eval()(**batch).logits)


@pytest.mark.parametrize("case", sorted(path.stem for path in GOLDEN.glob("*.safetensors")))
def test_what_the_release_computed_comes_out_of_its_weights(case, tmp_path):
    """Also with the pooler that its RoBERTa has everywhere; and what is saved is its state again, name by name."""
    with safe_open(GOLDEN / f"{case}.safetensors", "pt") as file:
        about, names = file.metadata(), list(file.keys())
        tensors = {name: file.get_tensor(name) for name in names}
    state = {name.removeprefix("state."): tensors[name] for name in names if name.startswith("state.")}
    settings = json.loads(about["config"]) | ({"num_labels": 1} if case == "bert_reg" else {})
    config = AutoConfig.for_model(settings.pop("model_type"), **settings)
    model = AsaModel(HEADS[GOLDEN_HEADS[about["head"]]].from_config(config).double())
    load_release_checkpoint(model, state)
    save_checkpoint(model, tmp_path / "model.bin")
    saved = read_state_dict(tmp_path / "model.bin")
    assert saved.keys() == state.keys()
    assert all(torch.equal(saved[name], tensor) for name, tensor in state.items())
    batch = {name.removeprefix("input."): tensors[name] for name in names if name.startswith("input.")}
    again = HEADS[GOLDEN_HEADS[about["head"]]].from_config(config).double().eval()
    load_release_checkpoint(again, tmp_path / "model.bin")
    assert torch.allclose(again(**batch).logits, tensors["eval.logits"], rtol=0, atol=1e-12)


@pytest.mark.parametrize("model_type", ["albert", "camembert", "distilbert", "electra", "mpnet", "xlm-roberta"])
def test_types_that_the_release_does_not_know(model_type, tmp_path):
    model = made(model_type, "token", seed=1)
    save_checkpoint(model, tmp_path / "model.bin")
    prefix = model.backbone.base_model_prefix
    beside = {f"{prefix}.embeddings.position_ids"}
    if prefix == "roberta":
        beside |= {f"roberta.pooler.dense.{name}" for name in LINEAR}
    assert read_state_dict(tmp_path / "model.bin").keys() - release_state_dict(model).keys() == beside
    other = made(model_type, "token", seed=2)
    load_release_checkpoint(other, tmp_path / "model.bin")
    batch = tiny_batch("token")
    assert torch.equal(other.eval()(**batch).logits, model.eval()(**batch).logits)


def test_a_pooler_that_the_model_has_is_not_left_out():
    state = of_release("roberta", "choice", True, seed=1)
    del state["roberta.pooler.dense.bias"]
    said = message(load_release_checkpoint, made("roberta", "choice"), state)
    assert said.startswith("checkpoint: a checkpoint of another model: it has no roberta.pooler.dense.bias")


@pytest.mark.parametrize("whole", [True, False])
def test_the_pooler_is_that_of_the_pretrained_encoder(whole, tmp_path):
    torch.manual_seed(0)
    config = tiny_backbone("roberta").config
    encoder = AutoModel.from_config(config, add_pooling_layer=whole).float()
    encoder.save_pretrained(tmp_path)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    model = load_pretrained(HEADS["token"], str(tmp_path), config, None, "eager")
    saved = unused_by_us(AsaModel(model))
    if whole:
        for name, tensor in encoder.pooler.state_dict().items():
            assert torch.equal(saved[f"roberta.pooler.{name}"], tensor)
    else:
        assert not saved["roberta.pooler.dense.bias"].any()
        assert model.unused_pooler == {}
    # The weights of the head are drawn as ever.
    torch.set_rng_state(state)
    expected = HEADS["token"].from_pretrained(tmp_path, config=config).classifier.weight
    assert torch.equal(model.classifier.weight, expected)


@pytest.mark.parametrize("model_type", ["albert", "deberta-v2", "modernbert", "roberta"])
def test_masked_words_of_every_kind_of_head_are_exported_and_loaded(model_type, encoder_folder, tmp_path):
    """The weights of the output are the embeddings under other names, and a pooler of one layer or two is kept."""
    backbone = tiny_backbone(model_type, "masked_lm", dtype=torch.float32)
    encoder = AutoModel.from_config(backbone.config).float()
    encoder.save_pretrained(tmp_path / "encoder")
    model = load_pretrained(HEADS["masked_lm"], str(tmp_path / "encoder"), backbone.config, None, "eager")
    with torch.no_grad():
        model.get_input_embeddings().weight += 1
    export(AsaModel(model), AutoTokenizer.from_pretrained(encoder_folder), tmp_path / "best")
    loaded = HEADS["masked_lm"].from_pretrained(tmp_path / "best")
    assert loaded.get_output_embeddings().weight is loaded.get_input_embeddings().weight
    assert loaded.state_dict().keys() == model.state_dict().keys()
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    again, info = AutoModel.from_pretrained(tmp_path / "best", output_loading_info=True)
    assert not info["missing_keys"]
    for name, tensor in again.state_dict().items():
        if "pooler" in name:
            assert torch.equal(tensor, encoder.state_dict()[name]), name


# --- other trainers ---

WRAPS = {
    "as it is": lambda state: state,
    "several GPUs": lambda state: {f"module.{name}": tensor for name, tensor in state.items()},
    "compiled": lambda state: {f"_orig_mod.{name}": tensor for name, tensor in state.items()},
    "compiled on several GPUs": lambda state: {f"module._orig_mod.{name}": tensor for name, tensor in state.items()},
    "a trainer": lambda state: {"epoch": 3, "state_dict": state, "optimizer": {"state": {}, "lr": [1e-5]}},
    "another": lambda state: {"model_state_dict": state, "loss": 0.5},
    "a third": lambda state: {"model": state, "args": None},
    "a prefix": lambda state: {"state_dict": {f"model.{name}": tensor for name, tensor in state.items()}},
    "in another": lambda state: {"model": {"state_dict": state}},
    "TensorFlow": lambda state: {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): tensor
        for name, tensor in state.items()
    },
}


@pytest.mark.parametrize("second", ["as it is", "several GPUs", "a trainer", "another", "TensorFlow"])
@pytest.mark.parametrize("first", WRAPS)
@pytest.mark.parametrize("model_type", ["bert", "roberta"])
def test_what_trainers_put_around_a_checkpoint(model_type, first, second, tmp_path):
    expected = of_release(model_type, "sequence", True, seed=1)
    state = WRAPS[first](expected)
    if first == "as it is" or isinstance(next(iter(state.values())), torch.Tensor):
        state = WRAPS[second](state)
    torch.save(state, tmp_path / "model.bin")
    model = made(model_type, "sequence", seed=2)
    for source in (tmp_path / "model.bin", state):
        load_release_checkpoint(model, source)
        for name, tensor in release_state_dict(model).items():
            assert torch.equal(tensor, expected[name]), name
            tensor.zero_()
    assert saved_classes(tmp_path / "model.bin") == ["LABEL_0", "LABEL_1", "LABEL_2"]


def test_safetensors_of_several_gpus(tmp_path):
    expected = of_release("bert", "sequence", False, seed=1)
    save_file(WRAPS["several GPUs"](WRAPS["TensorFlow"](expected)), tmp_path / "model.safetensors")
    assert read_state_dict(tmp_path / "model.safetensors").keys() == expected.keys()


def test_names_that_are_no_wrapping_stay():
    """A prefix that not all names have is part of them, and so is one that a model has for its own."""
    one = torch.ones(1)
    for state in ({"module.a": one, "b": one}, {"model.layers.0.weight": one, "classifier.weight": one}, {}):
        assert plain_names(state) == state
    for content in ([one], {"model": one}, {0: one}, None):
        assert plain_names(content) == content


def test_a_trainer_s_file_without_a_state_dict(tmp_path):
    for content in ({"epoch": 3}, {"model": {"epoch": 3}}, {"state_dict": {0: torch.ones(1)}}, {"state_dict": None}):
        torch.save(content, tmp_path / "model.bin")
        assert message(read_state_dict, tmp_path / "model.bin") == (
            f"{tmp_path / 'model.bin'}: not a state dict: names with tensors are expected"
        )
