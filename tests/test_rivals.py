"""The methods that ASA is compared with: each by value against its formula, computed plainly here."""

import argparse

import pytest
import torch
from conftest import gradients, relative_error, tiny_backbone, tiny_batch
from script_runs import results_of, run_folder
from test_data import write
from torch.nn import functional as F

import run_sent_clas
from models import objectives
from models.checkpoints import read_state_dict, release_state_dict
from models.objectives import METHODS
from training import Means

SETTINGS = {"rdrop": {"rdrop_alpha": 0.7}}
RIVALS = sorted(SETTINGS)
KINDS = {  # name -> head, number of labels
    "sequence": ("sequence", 3),
    "regression": ("sequence", 1),
    "choice": ("choice", 3),
    "token": ("token", 3),
}


def build(method: str, kind: str = "sequence", model_type: str = "bert", changes=None, **settings):
    """A method's module in training mode, and a batch."""
    head, num_labels = KINDS[kind]
    backbone = tiny_backbone(model_type, head, num_labels=num_labels, **changes or {})
    args = argparse.Namespace(**SETTINGS[method] | {"protocol": "paper"} | settings)
    return objectives.build(method, backbone, args).train(), tiny_batch(head, num_labels=num_labels)


def task_loss(kind: str, logits, labels):
    """The backbone's own loss, plainly."""
    if kind == "regression":
        return ((logits[:, 0] - labels) ** 2).mean()
    return F.cross_entropy(logits[labels != -100], labels[labels != -100])


def both_kl(kind: str, p, q, labels):
    """KL(p||q) + KL(q||p), summed over the labelled words of a sentence, or a regression's squared difference."""
    if kind == "regression":
        return ((p - q) ** 2).mean()
    if kind == "token":
        p, q = p[labels != -100], q[labels != -100]
    p, q = p.softmax(-1), q.softmax(-1)
    return ((p * (p / q).log()).sum() + (q * (q / p).log()).sum()) / len(labels)


def half(kind: str) -> float:
    """What is half of the divergences of distributions, and the whole of a squared difference."""
    return 1.0 if kind == "regression" else 0.5


# --- each by its formula ---


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_rdrop_by_its_formula(kind):
    model, batch = build("rdrop", kind, changes={"hidden_dropout_prob": 0.3})
    labels = batch["labels"]
    torch.manual_seed(5)
    output = model(**batch)
    # The same draws of dropout, from one pass over the batch and the batch again.
    torch.manual_seed(5)
    again = {name: torch.cat((value, value)) for name, value in batch.items() if name != "labels"}
    logits = model.backbone(**again).logits
    first, second = logits[: len(labels)], logits[len(labels) :]
    assert not torch.allclose(first, second)
    task = (task_loss(kind, first, labels) + task_loss(kind, second, labels)) / 2
    apart = 0.7 * half(kind) * both_kl(kind, first, second, labels)
    assert relative_error(output.task_loss, task) < 1e-12
    assert relative_error(output.divergence, apart) < 1e-9
    assert relative_error(output.loss, task + apart) < 1e-12
    assert torch.equal(output.logits, first)
    parameter = model.backbone.get_input_embeddings().weight
    expected = torch.autograd.grad(task + apart, parameter)[0]
    assert relative_error(torch.autograd.grad(output.loss, parameter)[0], expected) < 1e-9


# --- what holds for all of them ---


@pytest.mark.parametrize("method", RIVALS)
def test_evaluation_and_checkpoint_are_the_plain_model_s(method):
    model, batch = build(method)
    alone = tiny_backbone().eval()
    assert torch.equal(model.eval()(**batch).logits, alone(**batch).logits)
    assert type(model(**batch)) is type(alone(**batch))
    assert release_state_dict(model).keys() == alone.state_dict().keys()
    with pytest.raises(ValueError, match="needs labels"):
        model.train()(input_ids=batch["input_ids"])


@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize("method", RIVALS)
def test_parts_add_up_to_the_whole(method, kind):
    """Without dropout and random noise; the parts hold different numbers of labels, one of them none."""
    settings = SETTINGS[method] | {flag: 0.0 for flag in ("freelb_init",) if flag in METHODS[method].flags}
    model, batch = build(method, kind, **settings)
    if kind == "token":
        batch["labels"][0] = -100
    size = len(batch["labels"])
    model(**batch).loss.backward()
    expected = {name: gradient.clone() for name, gradient in gradients(model).items()}
    model.zero_grad()
    whole, figures = model(**batch), Means()
    labels = (batch["labels"] != -100).sum()
    for rows in (slice(0, 1), slice(1, size)):
        part = {name: tensor[rows] for name, tensor in batch.items()}
        shares = (len(part["labels"]), size), ((part["labels"] != -100).sum(), labels)
        output = model(**part)
        objectives.weighted_loss(output, *shares).backward()
        figures.add(objectives.figures(output, *shares))
    for name, gradient in gradients(model).items():
        assert (gradient - expected[name]).norm() < 1e-11 * expected[name].norm() + 1e-14, name
    assert figures.sums["train_loss"].item() == pytest.approx(whole.loss.item(), rel=1e-6)


@pytest.mark.parametrize("head", ["sequence", "choice", "token"])
@pytest.mark.parametrize("method", RIVALS)
def test_every_parameter_has_a_gradient(method, head):
    """Processes wait for the gradient of each parameter that is trained."""
    model, batch = build(method, head)
    model(**batch).loss.backward()
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert set(gradients(model)) == trained


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("method", RIVALS)
def test_lower_precision(method, dtype):
    model, batch = build(method, changes={"dtype": torch.float32, "initializer_range": 0.1})
    with torch.autocast("cpu", dtype):
        output = model(**batch)
    output.loss.backward()
    assert output.loss.dtype == torch.float32
    assert all(gradient.isfinite().all() for gradient in gradients(model).values())


# --- from the command line ---


@pytest.fixture
def data_dir(tmp_path):
    rows = ["a warm film\t1", "a dull plot\t0", "a warm film with music\t1"]
    write(tmp_path / "data" / "sst-2" / "train.tsv", "sentence\tlabel", *rows)
    write(tmp_path / "data" / "sst-2" / "dev.tsv", "sentence\tlabel", *rows)
    return tmp_path / "data"


@pytest.mark.parametrize("method", RIVALS)
def test_from_the_command_line(method, data_dir, encoder_folder, tmp_path):
    flags = [part for name, value in SETTINGS[method].items() for part in (f"--{name}", str(value))]
    flags += ["--do_train", "--do_eval", "--method", method, "--gradient_accumulation_steps", "2"]
    out = run_folder(run_sent_clas.main, data_dir, encoder_folder, tmp_path / "out", "SST-2", *flags)
    record = results_of(out)
    assert {name: record["args"][name] for name in SETTINGS[method]} == SETTINGS[method]
    assert {flag for each in METHODS.values() for flag in each.flags} <= record["args"].keys()
    assert record["epochs"][0]["train_loss"] > 0
    state = read_state_dict(out / "0_pytorch_model.bin")
    exported = read_state_dict(out / "best" / "model.safetensors")
    assert state.keys() == exported.keys()
    assert not [name for name in state if not name.startswith(("bert.", "classifier."))]
