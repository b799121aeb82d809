"""Saving and loading: the release's names, stock folders, and files that are not what they should be."""

import os

import pytest
import torch
from conftest import SIZES, tiny_backbone, tiny_batch
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer, pipeline

from models.asa import AsaModel
from models.checkpoints import (
    export,
    load_release_checkpoint,
    load_saved,
    read_state_dict,
    release_state_dict,
    save_checkpoint,
)
from utils import InputError


def test_names_are_the_release_s_and_tensors_share_storage():
    model = AsaModel(tiny_backbone("roberta"))
    state = release_state_dict(model)
    query = state["roberta.encoder.adversary.1.query.weight"]
    assert query.data_ptr() == model.adversaries[1].query.weight.data_ptr()
    assert {name for name in state if "adversary" not in name} == model.backbone.state_dict().keys()
    assert sum("adversary" in name for name in state) == 3 * 4


@pytest.mark.parametrize("model_type", ["albert", "bert", "distilbert", "roberta"])
def test_a_checkpoint_comes_back(model_type, tmp_path):
    saved = AsaModel(tiny_backbone(model_type, seed=1))
    save_checkpoint(saved, tmp_path / "model.bin")
    model = AsaModel(tiny_backbone(model_type, seed=2))
    load_release_checkpoint(model, tmp_path / "model.bin")
    for name, tensor in release_state_dict(saved).items():
        assert torch.equal(release_state_dict(model)[name], tensor), name
    batch = tiny_batch()
    assert torch.equal(model.train()(**batch).loss, saved.train()(**batch).loss)

    plain = tiny_backbone(model_type, seed=3).eval()
    load_release_checkpoint(plain, tmp_path / "model.bin")
    assert torch.equal(plain(**batch).logits, saved.eval()(**batch).logits)
    assert os.listdir(tmp_path) == ["model.bin"]


def test_an_adversary_keeps_the_number_of_its_layer(tmp_path):
    saved = AsaModel(tiny_backbone("roberta", seed=1), layers=[0, 2])
    save_checkpoint(saved, tmp_path / "model.bin")
    numbers = [name.split(".")[3] for name in read_state_dict(tmp_path / "model.bin") if "adversary" in name]
    assert numbers == 4 * ["0"] + 4 * ["2"]
    model = AsaModel(tiny_backbone("roberta", seed=2), layers=[2, 0])
    load_release_checkpoint(model, tmp_path / "model.bin")
    assert torch.equal(model.adversaries[2].key.weight, saved.adversaries[2].key.weight)
    with pytest.raises(InputError, match=r"it has no roberta.encoder.adversary.1.key.bias \(4 weights missing"):
        load_release_checkpoint(AsaModel(tiny_backbone("roberta")), tmp_path / "model.bin")


def test_index_buffers_of_older_versions_are_passed_over():
    model = AsaModel(tiny_backbone())
    state = release_state_dict(model) | {"bert.embeddings.position_ids": torch.arange(100)[None]}
    state |= {"bert.embeddings.token_type_ids": torch.zeros(1, 100, dtype=torch.long)}
    load_release_checkpoint(model, state)


def test_a_checkpoint_of_another_model_changes_nothing():
    model = AsaModel(tiny_backbone())
    before = {name: tensor.clone() for name, tensor in release_state_dict(model).items()}
    others = {
        r"the model has no bert.encoder.adversary.3.key.bias \(0 weights missing, 20 not expected\)": tiny_backbone(
            num_hidden_layers=4
        ),
        r"it has no bert.embeddings.LayerNorm.bias": tiny_backbone("roberta"),
        r"classifier.weight is \(2, 24\), the model's is \(3, 24\)": tiny_backbone(num_labels=2),
        r"another shape: bert.embeddings.word_embeddings.weight is \(61, 24\)": tiny_backbone(vocab_size=61),
    }
    for message, other in others.items():
        with pytest.raises(InputError, match=message):
            load_release_checkpoint(model, release_state_dict(AsaModel(other)))
    with pytest.raises(InputError, match=r"it has no bert\.encoder\.adversary\.0\.key\.bias"):
        load_release_checkpoint(model, release_state_dict(tiny_backbone()))  # a plain one
    for name, tensor in release_state_dict(model).items():
        assert torch.equal(tensor, before[name])


def test_exported_folder_is_stock(encoder_folder, tmp_path):
    config = AutoConfig.from_pretrained(encoder_folder, id2label={0: "bad", 1: "good"}, label2id={"bad": 0, "good": 1})
    backbone = AutoModelForSequenceClassification.from_pretrained(encoder_folder, config=config)
    model = AsaModel(backbone).eval()
    tokenizer = AutoTokenizer.from_pretrained(encoder_folder)
    export(model, tokenizer, tmp_path / "best")
    export(model, tokenizer, tmp_path / "best")  # over the first
    assert os.listdir(tmp_path) == ["best"]

    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "best")
    assert not [name for name in loaded.state_dict() if "adversar" in name]
    batch = tokenizer(["a warm film", "a dull plot"], return_tensors="pt", padding=True)
    with torch.no_grad():
        assert torch.equal(loaded.eval()(**batch).logits, model(**batch).logits)
    answer = pipeline("text-classification", model=str(tmp_path / "best"))("a warm film")
    assert answer[0]["label"] in ("bad", "good")
    assert torch.equal(
        load_saved(AutoModelForSequenceClassification, tmp_path / "best", config, "sdpa").classifier.weight,
        model.backbone.classifier.weight,
    )


def test_names_are_the_same_when_compiled():
    model = AsaModel(tiny_backbone())
    names = release_state_dict(model).keys()
    assert release_state_dict(torch.compile(model, backend="eager")).keys() == names


def test_tied_weights_are_read_from_a_file_that_holds_them_once(tmp_path):
    saved = tiny_backbone(head="masked_lm", seed=1, dtype=torch.float32)
    saved.save_pretrained(tmp_path)
    model = tiny_backbone(head="masked_lm", seed=2, dtype=torch.float32)
    load_release_checkpoint(model, tmp_path / "model.safetensors")
    assert all(torch.equal(tensor, saved.state_dict()[name]) for name, tensor in model.state_dict().items())


def test_a_folder_that_was_not_fine_tuned_for_the_task(encoder_folder, tmp_path):
    config = AutoConfig.from_pretrained(encoder_folder, id2label={0: "no", 1: "yes"}, label2id={"no": 0, "yes": 1})
    with pytest.raises(InputError, match=r"not a model fine-tuned for such a task: it has no classifier\.bias"):
        load_saved(AutoModelForSequenceClassification, encoder_folder, config, "sdpa")
    for head, name in (("token", "BertForTokenClassification"), ("choice", "BertForMultipleChoice")):
        tiny_backbone(head=head, num_labels=2, dtype=torch.float32).save_pretrained(tmp_path / head)
        with pytest.raises(InputError, match=f"not a model fine-tuned for such a task: it is a {name}"):
            load_saved(AutoModelForSequenceClassification, tmp_path / head, config, "sdpa")
    tiny_backbone("roberta", num_labels=2, dtype=torch.float32).save_pretrained(tmp_path)
    with pytest.raises(InputError, match="a roberta model, but --load_model_path is bert"):
        load_saved(AutoModelForSequenceClassification, tmp_path, config, "sdpa")


def test_a_configuration_that_no_model_can_have(tmp_path):
    save_checkpoint(tiny_backbone(), tmp_path / "model.bin")
    config = AutoConfig.for_model("bert", **SIZES["bert"] | {"num_attention_heads": 5})
    with pytest.raises(InputError, match=r"config\.json describes no model that can be made"):
        load_saved(AutoModelForSequenceClassification, tmp_path / "model.bin", config, "sdpa")


def test_a_folder_of_another_label_count(encoder_folder, tmp_path):
    tiny_backbone(num_labels=3, dtype=torch.float32).save_pretrained(tmp_path)
    config = AutoConfig.for_model("bert", **SIZES["bert"], num_labels=2)
    with pytest.raises(InputError, match=r"not a model fine-tuned for such a task: it has no classifier\.bias"):
        load_saved(AutoModelForSequenceClassification, tmp_path, config, "sdpa")
