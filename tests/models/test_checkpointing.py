"""--gradient_checkpointing: less is kept for the backward pass, and nothing else changes."""

import pytest
import torch
from asa_models import ENCODERS
from conftest import gradients, tiny_backbone, tiny_batch
from script_runs import message
from test_data import write
from torch.autograd.graph import saved_tensors_hooks
from transformers import __version__

import run_sent_clas
from models import asa, encoders, methods
from models.asa import AsaModel
from models.checkpoints import read_state_dict
from models.encoders import checkpoint_layers

WITHOUT = ("albert", "mpnet")  # ALBERT shares its layer; transformers has no checkpointing for MPNet


def step(model, batch: dict) -> tuple[torch.Tensor, dict[str, torch.Tensor], int]:
    """Loss, gradients, and the bytes kept for the backward pass."""
    kept = {}
    torch.manual_seed(3)  # dropout
    with saved_tensors_hooks(lambda tensor: kept.update({tensor.data_ptr(): tensor.nbytes}) or tensor, lambda t: t):
        loss = model(**batch).loss
    loss.backward()
    return loss.detach(), {name: gradient.clone() for name, gradient in gradients(model).items()}, sum(kept.values())


@pytest.mark.parametrize("method", [AsaModel, lambda backbone: backbone], ids=["asa", "naive"])
@pytest.mark.parametrize(("model_type", "attention"), [pair for pair in ENCODERS if pair[0] not in WITHOUT])
def test_gradients_are_the_same(model_type, method, attention):
    changes = {"dropout": 0.1} if model_type == "distilbert" else {"hidden_dropout_prob": 0.1}
    found = []
    for checkpointed in (False, True):
        model = method(tiny_backbone(model_type, attention=attention, **changes)).train()
        if checkpointed:
            checkpoint_layers(getattr(model, "backbone", model))
        found.append(step(model, tiny_batch()))
    (loss, expected, whole), (again, actual, kept) = found
    assert torch.equal(again, loss)
    assert actual.keys() == expected.keys()
    for name, gradient in actual.items():
        assert (gradient - expected[name]).norm() <= 1e-12 * expected[name].norm() + 1e-15, name
    assert kept < 0.7 * whole


def test_what_cannot_be_checkpointed_is_refused(monkeypatch):
    assert message(checkpoint_layers, tiny_backbone("albert")) == (
        "--gradient_checkpointing: transformers has none for albert models"
    )
    monkeypatch.setattr(encoders, "HOOKS_RUN_AGAIN", True)
    assert f"transformers {__version__} runs hooks inside the checkpoint" in message(checkpoint_layers, tiny_backbone())


def test_a_transformers_that_runs_hooks_again_is_refused(monkeypatch):
    monkeypatch.setattr(asa, "HOOKS_RUN_AGAIN", True)
    model, batch = AsaModel(tiny_backbone()).train(), tiny_batch()
    assert model(**batch).penalty > 0
    model.backbone.activation_checkpointing_enable()
    with pytest.raises(ValueError, match=f"gradient checkpointing does not work with transformers {__version__}"):
        model(**batch)
    with pytest.raises(ValueError, match=f"gradient checkpointing does not work with transformers {__version__}"):
        model.gradient_checkpointing_enable()


def test_settings_that_leave_checkpoint_reentrant_are_refused():
    model = AsaModel(tiny_backbone()).train()
    model.backbone.activation_checkpointing_enable({"preserve_rng_state": False})
    with pytest.raises(ValueError, match="must have use_reentrant=False"):
        model(**tiny_batch())


def test_from_the_command_line(encoder_folder, tmp_path, monkeypatch):
    used, build = [], methods.build
    monkeypatch.setattr(
        methods,
        "build",
        lambda name, model, args: used.append(model.is_activation_checkpointing) or build(name, model, args),
    )
    write(tmp_path / "sst-2" / "train.tsv", "sentence\tlabel", *(["a warm film\t1", "a dull plot\t0"] * 3))
    weights = []
    for flags in ((), ("--gradient_checkpointing", "--gradient_accumulation_steps", "2")):
        given = ["--do_train", "--task_name", "SST-2", "--data_dir", str(tmp_path), "--load_model_path", encoder_folder]
        given += ["--train_batch_size", "4", "--num_train_epochs", "1", "--no_cuda", "--overwrite_output_dir", *flags]
        run_sent_clas.main([*given, "--max_seq_length", "16", "--output_dir", str(tmp_path / "out")])
        weights.append(read_state_dict(tmp_path / "out" / "0_pytorch_model.bin"))
    assert used == [False, True]
    plain, checkpointed = weights
    for name, tensor in plain.items():
        if "key.bias" not in name:  # whose gradient is rounding alone, which Adam scales up
            assert torch.allclose(checkpointed[name], tensor, atol=1e-5), name
