"""Checkpoints of `AsaTrainer`: stock folders with the adversaries beside the weights, resumed or refused whole."""

from pathlib import Path

import pytest
import torch
from conftest import tiny_backbone, tiny_batch
from model_folders import load_stock, name_as_tensorflow
from safetensors.torch import load_file, save_file
from trainers import logged, trainer_of
from transformers import AutoModelForSequenceClassification, TrainerCallback

from models.asa import AsaModel
from models.trainer import ADVERSARIES, AsaTrainer


def test_a_checkpoint_is_a_stock_folder(tmp_path):
    model = AsaModel(tiny_backbone(dtype=torch.float32), tau=0.2)
    trainer = trainer_of(model, tmp_path, save_strategy="epoch")
    trainer.train()
    trainer.save_model(str(tmp_path / "final"))
    for folder in (tmp_path / "checkpoint-8", tmp_path / "final"):
        stock = AutoModelForSequenceClassification.from_pretrained(folder).eval()
        assert torch.equal(stock(**tiny_batch()).logits, model.eval()(**tiny_batch()).logits)
        assert load_file(folder / "model.safetensors").keys() == model.backbone.state_dict().keys()
        saved = load_file(folder / ADVERSARIES)
        assert saved.keys() == model.adversaries.state_dict().keys()
        assert all(torch.equal(saved[name], value) for name, value in model.adversaries.state_dict().items())


def test_a_resumed_run_is_an_uninterrupted_one(tmp_path):
    """With dropout, bit by bit."""

    def fresh(seed: int) -> AsaTrainer:
        model = AsaModel(tiny_backbone(hidden_dropout_prob=0.1, seed=seed), tau=0.2)
        return trainer_of(model, tmp_path, save_strategy="steps", save_steps=3, train_sampling_strategy="random")

    whole, resumed = fresh(0), fresh(1)
    whole.train()
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert logged(resumed, "loss") == logged(whole, "loss")
    expected = whole.model.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in resumed.model.state_dict().items())


@pytest.mark.parametrize(("model_type", "head"), [("tensorflow", "sequence"), ("gte", "token"), ("bert", "masked_lm")])
def test_every_weight_is_resumed(model_type, head, tmp_path):
    """Also where the library saves a model by other names than it has in memory, or leaves out tied weights."""
    if model_type == "tensorflow":
        tiny_backbone(dtype=torch.float32).save_pretrained(tmp_path / "encoder")
        name_as_tensorflow(tmp_path / "encoder")

    def fresh() -> AsaTrainer:
        loaded = load_stock(tmp_path / "encoder") if model_type == "tensorflow" else tiny_backbone(model_type, head)
        model = AsaModel(loaded, tau=0.2)
        return trainer_of(model, tmp_path, head=head, save_strategy="epoch", num_train_epochs=1)

    trained, resumed = fresh(), fresh()
    before = {name: value.clone() for name, value in resumed.model.state_dict().items()}
    trained.train()
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))  # which was its last step
    found = resumed.model.state_dict()
    for name, value in trained.model.state_dict().items():
        assert torch.equal(found[name], value), name
    moved = [name for name in found if "norm" in name.lower() and not torch.equal(found[name], before[name])]
    assert len(moved) >= 14


def test_a_checkpoint_that_lacks_weights_is_refused(tmp_path):
    trainer_of(AsaModel(tiny_backbone()), tmp_path, save_strategy="epoch", num_train_epochs=1).train()
    file = tmp_path / "checkpoint-4" / "model.safetensors"
    weights = load_file(file)
    del weights["classifier.bias"]
    save_file(weights, file)
    with pytest.raises(ValueError, match=r"^the checkpoint lacks 1 of the model's weights, classifier.bias among them"):
        trainer_of(AsaModel(tiny_backbone()), tmp_path).train(resume_from_checkpoint=True)


def test_the_best_model_is_loaded_with_its_adversaries(tmp_path):
    """The first epoch's: the second is evaluated with a head that is wrong on purpose."""

    class Spoil(TrainerCallback):
        def on_epoch_end(self, args, state, control, model, **_):
            if state.global_step == 8:
                with torch.no_grad():
                    model.backbone.classifier.weight.mul_(-100)
                    model.adversaries[0].query.weight.zero_()

    model = AsaModel(tiny_backbone(), tau=0.2)
    each_epoch = {"save_strategy": "epoch", "eval_strategy": "epoch", "load_best_model_at_end": True}
    trainer = trainer_of(model, tmp_path, Spoil(), **each_epoch)
    trainer.train()
    assert logged(trainer, "eval_loss")[1] > 2 * logged(trainer, "eval_loss")[0]
    best = tmp_path / "checkpoint-4"
    assert Path(trainer.state.best_model_checkpoint) == best
    assert torch.equal(model.backbone.classifier.weight, load_file(best / "model.safetensors")["classifier.weight"])
    assert torch.equal(model.adversaries[0].query.weight, load_file(best / ADVERSARIES)["0.query.weight"])


def test_a_best_model_on_another_machine_s_disk_is_not_loaded(tmp_path):
    """The Trainer warns of it, and keeps what it has."""
    model = AsaModel(tiny_backbone())
    trainer = trainer_of(model, tmp_path)
    trainer.state.best_model_checkpoint = str(tmp_path / "checkpoint-4")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trainer._load_best_model()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_checkpoint_of_other_layers_is_refused_before_anything_is_loaded(tmp_path):
    trainer_of(AsaModel(tiny_backbone(), layers=[1]), tmp_path, save_strategy="epoch", num_train_epochs=1).train()
    model = AsaModel(tiny_backbone())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=r"checkpoint-4/adversaries.safetensors has the adversaries of other layers"):
        trainer_of(model, tmp_path).train(resume_from_checkpoint=True)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_checkpoint_without_adversaries_is_refused(tmp_path):
    model = AsaModel(tiny_backbone())
    model.backbone.save_pretrained(tmp_path / "checkpoint-1")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=r"checkpoint-1 has no adversaries.safetensors: it is not a checkpoint of an"):
        trainer_of(model, tmp_path).train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
