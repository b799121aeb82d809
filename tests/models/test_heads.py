"""The head of a model: its classes, and what training does with a head that a checkpoint has."""

import pytest
import torch
from conftest import HEADS, SIZES, relative_error, tiny_backbone, tiny_batch
from model_folders import load_stock, model_folder

from data.classes import class_order
from data.tasks import CHOICE_TASKS, NLI, SENTENCE_TASKS
from models.encoders import load_config, load_pretrained
from models.heads import NO_CLASSES, named_labels, reorder_classes

TASKS = SENTENCE_TASKS | CHOICE_TASKS


@pytest.mark.parametrize("head", ["sequence", "token"])
@pytest.mark.parametrize("model_type", sorted(SIZES))
def test_the_outputs_of_a_head_in_another_order(model_type, head):
    model, batch = tiny_backbone(model_type, head).eval(), tiny_batch(head)
    before = model(**batch).logits
    reorder_classes(model, [2, 0, 1])
    assert torch.equal(model(**batch).logits, before[..., [2, 0, 1]])


def begun(folder, task: str, head="sequence"):
    """The model that training on a task begins with."""
    changes = NO_CLASSES if head == "choice" else named_labels(TASKS[task].labels)
    config = load_config(str(folder), None, None, **changes)
    torch.manual_seed(5)
    order_of = lambda words: class_order(TASKS[task], words)  # noqa: E731
    return load_pretrained(HEADS[head], str(folder), config, None, "eager", order_of)


@pytest.mark.parametrize("model_type", ["bert", "distilbert", "roberta"])
def test_a_head_with_the_task_s_classes_is_kept(model_type, encoder_folder, tmp_path, caplog):
    caplog.set_level("INFO", "asa")
    names = ["entailment", "neutral", "contradiction"]
    folder = model_folder(tmp_path / "mnli", encoder_folder, model_type, names=names)
    model, stock, batch = begun(folder, "MNLI").eval(), load_stock(folder).eval(), tiny_batch()
    del batch["labels"]
    assert relative_error(model(**batch).logits, stock(**batch).logits[:, [2, 0, 1]]) < 1e-6
    assert [model.config.id2label[index] for index in range(3)] == list(NLI)
    assert f"--load_model_path {folder}: its head is kept (classes entailment, neutral, contradiction)" in caplog.text
    assert "new weights" not in caplog.text


@pytest.mark.parametrize("names", [None, ["a", "b", "c"], ["contradiction", "entailment", "0"]])
@pytest.mark.parametrize("model_type", ["bert", "distilbert", "electra", "roberta"])
def test_any_other_head_is_made_anew(model_type, names, encoder_folder, tmp_path, caplog):
    """As if the folder had none, bit by bit."""
    caplog.set_level("INFO", "asa")
    folder = model_folder(tmp_path / "model", encoder_folder, model_type, names=names, num_labels=3)
    model = begun(folder, "MNLI")
    assert "its head is not known to be one for this task (classes " in caplog.text
    load_stock(folder).base_model.save_pretrained(folder)
    caplog.clear()
    expected = begun(folder, "MNLI").state_dict()
    assert "its head is not known" not in caplog.text
    assert model.state_dict().keys() == expected.keys()
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, expected[name]), name


@pytest.mark.parametrize("model_type", ["distilbert", "electra", "roberta"])
def test_a_head_of_more_classes_is_made_anew_as_a_whole(model_type, encoder_folder, tmp_path, caplog):
    """Not only its last map, which does not fit."""
    caplog.set_level("INFO", "asa")
    folder = model_folder(tmp_path / "model", encoder_folder, model_type, names=NLI)
    model, before = begun(folder, "SST-2"), load_stock(folder).state_dict()
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, before[name]) == name.startswith(model.base_model_prefix) or not weight.any(), name
    new = sorted(name for name in before if not name.startswith(model.base_model_prefix))
    assert f"new weights: {', '.join(new)}" in caplog.text


def test_a_head_of_another_kind_is_made_anew(encoder_folder, tmp_path):
    """A classifier of words and one of sentences call their weights by the same names."""
    folder = model_folder(tmp_path / "words", encoder_folder, head="token", names=["0", "1"])
    before = HEADS["token"].from_pretrained(folder).classifier.weight
    assert not torch.equal(begun(folder, "SST-2").classifier.weight, before)
    folder = model_folder(tmp_path / "score", encoder_folder, num_labels=1)
    before = load_stock(folder).classifier.weight
    assert torch.equal(begun(folder, "STS-B").classifier.weight, before)
    assert not torch.equal(begun(folder, "DREAM", "choice").classifier.weight, before)
