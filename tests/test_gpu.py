"""What only a CUDA GPU can show: its kernels, fp16 with a loss scale, its random streams. Skipped without one."""

import copy
import itertools
import json
import math
import os
import signal

import pytest
import torch
from accelerate.utils import send_to_device
from asa_models import ATTENTIONS, close
from conftest import gradients, relative_error, save_tiny_encoder, tiny_backbone, tiny_batch
from script_runs import results_of
from test_encoder_types import assert_same_gradients, copied_step
from test_liveness import MODELS
from test_training import features, make_run, metrics_of

import run_sent_clas
from benchmarks.kill_resume import make_data
from models.asa import AsaModel
from models.checkpoints import read_state_dict, release_state_dict
from models.encoder_types import encoder_layers
from training import loop
from training.loop import train
from training.state import random_states

DEVICE = "cuda"
pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA GPU")

METHODS = ("naive", *MODELS)
WIDTH = 32  # two heads of 16: in half precision the fused kernels of SDPA take multiples of 8 alone
# In one layer the adversaries read the same input in every precision, so that the masks are equal. The weights are
# small, so that little but rounding comes between the precisions.
ONE_LAYER = {"num_hidden_layers": 1, "initializer_range": 0.15}
SCALE = 2.0**10  # of the loss: without one, float16 loses the smallest gradients
PRECISIONS = [(torch.float16, 0.03), (torch.bfloat16, 0.1)]  # which keep 11 and 8 bits of a number


def make(method: str, attention: str, closed: bool = False, dtype: torch.dtype = torch.float32, **settings):
    """The same weights at each call; if closed, the adversaries mask whole rows."""
    backbone = tiny_backbone(attention=attention, dtype=dtype, hidden_size=WIDTH, **settings)
    model = backbone if method == "naive" else AsaModel(backbone, **MODELS[method])
    for adversary in model.adversaries if closed else ():
        close(adversary)
    return model.train()


# --- one step ---


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("method", METHODS)
def test_a_step_on_the_gpu_is_that_of_the_cpu(method, attention):
    expected, on_cpu = copied_step(make(method, attention), tiny_batch())
    found, on_gpu = copied_step(make(method, attention).to(DEVICE), send_to_device(tiny_batch(), DEVICE))
    assert relative_error(on_gpu.loss.cpu(), on_cpu.loss) < 1e-4
    assert_same_gradients(send_to_device(found, "cpu"), expected, 1e-4)


@pytest.mark.parametrize("method", MODELS)
def test_below_frozen_weights_the_mask_of_sdpa_has_its_gradient(method):
    """A kernel of SDPA crashes if the mask alone needs a gradient, as in the first layers here."""

    def frozen_below():
        model = make(method, "sdpa")
        for module in (model.backbone.bert.embeddings, encoder_layers(model.backbone)[0]):
            module.requires_grad_(False)
        return model

    expected, _ = copied_step(frozen_below(), tiny_batch())
    found, _ = copied_step(frozen_below().to(DEVICE), send_to_device(tiny_batch(), DEVICE))
    assert_same_gradients(send_to_device(found, "cpu"), expected, 1e-4)


@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize(
    ("method", "closed"), [("naive", False), *((method, closed) for method in MODELS for closed in (False, True))]
)
def test_a_step_under_autocast_is_that_of_float32(method, closed, attention, dtype, tolerance):
    """With ASA, some rows of the batch are fully masked from the start, and with both methods all if closed."""
    batch = send_to_device(tiny_batch(), DEVICE)
    expected, exact = copied_step(make(method, attention, closed, **ONE_LAYER).to(DEVICE), batch)
    model = make(method, attention, closed, **ONE_LAYER).to(DEVICE)
    with torch.autocast(DEVICE, dtype):
        output = model(**batch)
    (SCALE * output.loss).backward()
    found = {name: gradient / SCALE for name, gradient in gradients(model).items()}
    assert relative_error(output.loss, exact.loss) < tolerance
    assert all(gradient.isfinite().all() for gradient in found.values())
    if method != "naive":
        assert torch.equal(output.keep_rate, exact.keep_rate)
        assert output.fully_masked == 1 if closed else (output.fully_masked > 0) == (method == "asa")
    # A key's bias has no gradient but rounding. Where all is closed, the two predictions are equal but for rounding,
    # which the mask's factor of 1e4 enlarges for the adversary: the next test looks at that gradient alone.
    left_out = ("attention.self.key.bias", *(["adversaries"] if closed else []))
    compared = {name for name in expected if not any(part in name for part in left_out)}
    assert_same_gradients(*({name: each[name] for name in compared} for each in (found, expected)), tolerance)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-4), *((dtype, 0.05) for dtype, _ in PRECISIONS)]
)
@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("method", MODELS)
def test_fully_masked_rows_keep_the_gradient_of_the_mask(method, attention, dtype, tolerance):
    def of_first_adversary(device: str, dtype: torch.dtype) -> torch.Tensor:
        half = dtype.itemsize == 2
        weights = torch.float32 if half else dtype
        model = make(method, attention, closed=True, dtype=weights, initializer_range=0.1).to(device)
        batch = send_to_device(tiny_batch(), device)
        del batch["labels"]
        with model.adversarial_mode(batch["attention_mask"]), torch.autocast(device, dtype, enabled=half):
            (SCALE * model.backbone(**batch).logits[:, 0].sum()).backward()
        return model.adversaries[0].key.weight.grad.cpu() / SCALE

    exact = of_first_adversary("cpu", torch.float64)
    assert exact.norm() > 1e-4
    assert relative_error(of_first_adversary(DEVICE, dtype), exact) < tolerance


# --- whole runs ---


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """Data with 11 training rows, of which batches of 4 make 3 steps an epoch, and an encoder with dropout."""
    folder = tmp_path_factory.mktemp("given")
    make_data(folder / "sets", 11)
    dropout = dict.fromkeys(("hidden_dropout_prob", "attention_probs_dropout_prob"), 0.2)
    save_tiny_encoder(folder / "encoder", hidden_size=WIDTH, **dropout)
    return folder


@pytest.fixture
def on_gpu(script, given):
    """on_gpu(output folder, flags, settings) -> exit status of run_sent_clas.py; 24 steps if it trains."""
    settings = {"task_name": "SST-2", "data_dir": given / "sets", "load_model_path": given / "encoder"}
    settings |= {"no_cuda": None, "max_train_steps": None, "num_train_epochs": 8, "learning_rate": "1e-3"}

    def run(folder, *flags: str, **changes) -> int:
        return script(run_sent_clas, *flags, **settings | changes, output_dir=folder)

    return run


@pytest.mark.parametrize("precision", ["fp16", "bf16", "fp32"])
@pytest.mark.parametrize("method", METHODS)
def test_a_run_and_the_evaluation_of_what_it_saved(method, precision, on_gpu, tmp_path):
    flags = [] if precision == "fp32" else [f"--{precision}"]
    changes = {"method": method, "logging_steps": 3} | ({"liveness_steps": 3} if method in MODELS else {})
    assert on_gpu(tmp_path / "out", "--do_train", "--do_eval", *flags, **changes) == 0
    record, rows = results_of(tmp_path / "out"), metrics_of(tmp_path / "out")
    assert record["precision"] == precision
    assert record["device"].startswith(f"{DEVICE}: ")
    assert [row["step"] for row in rows] == list(range(3, 25, 3))
    assert all(math.isfinite(row["train_loss"]) for row in rows if "train_loss" in row)
    assert math.isfinite(record["epochs"][-1]["train_loss"])  # null if all of its steps had been skipped
    assert precision == "fp16" or not any(epoch["skipped_steps"] for epoch in record["epochs"])
    if method in MODELS:
        assert all(math.isfinite(row["liveness"]) for row in rows if row["liveness"] is not None)
        assert any(row["liveness"] for row in rows)
    saved = tmp_path / "out" / "best"
    assert on_gpu(tmp_path / "again", "--do_eval", *flags, test_model_file=saved) == 0
    scores = json.loads((tmp_path / "again" / "evaluation.json").read_text())
    assert scores["metrics"] == record["best"]["metrics"]
    assert scores["eval_loss"] == pytest.approx(record["best"]["eval_loss"], rel=1e-5)


def assert_same_weights(found: dict, expected: dict) -> None:
    """But for the order of sums: some kernels add up with atomics. Another draw of dropout changes a bias by a tenth.

    The key biases, whose gradient is rounding alone, are left out: Adam scales it up.
    """
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        if "self.key.bias" not in name:
            assert relative_error(found[name], tensor) < 1e-3, name


def test_fp16_cut_off_and_resumed_ends_as_if_it_had_not_been(on_gpu, tmp_path, monkeypatch):
    """After its loss scale has come down: at first, gradients of the heavy divergence overflow, and steps are skipped.

    Each command seeds the random streams anew, so that only the saved state can set them right.
    """
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    flags = ["--do_train", "--do_eval", "--fp16", "--asa_divergence_weight", "64"]
    assert on_gpu(whole, *flags) == 0
    calls, optimize = itertools.count(1), loop.optimize

    def cut_off(*given):
        if next(calls) == 17:
            os.kill(os.getpid(), signal.SIGTERM)
        return optimize(*given)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "optimize", cut_off)
        assert on_gpu(cut, *flags) == 128 + signal.SIGTERM
    assert on_gpu(cut, *flags, "--resume") == 0
    of_whole, of_cut = results_of(whole), results_of(cut)
    assert [segment["from_step"] for segment in of_cut["segments"]] == [0, 17]
    skipped = [[epoch["skipped_steps"] for epoch in each["epochs"]] for each in (of_cut, of_whole)]
    assert skipped[0] == skipped[1]
    assert 0 < sum(skipped[1]) < 16
    assert_same_weights(*(read_state_dict(folder / "7_pytorch_model.bin") for folder in (cut, whole)))


@pytest.mark.parametrize("method", MODELS)
def test_training_does_not_notice_liveness(method, tmp_path, monkeypatch):
    """With dropout; the generator of the GPU, from which that draws, is one of those compared."""
    monkeypatch.setattr(loop, "model_card", lambda *_: "")  # a run without a record has none
    start = AsaModel(tiny_backbone(hidden_dropout_prob=0.3, dtype=torch.float32), **MODELS[method])
    states, weights = [], []
    for steps in (0, 3):
        model = copy.deepcopy(start)
        run = make_run(tmp_path / str(steps), model, num_train_epochs=2, liveness_steps=steps, no_cuda=False)
        assert run.accelerator.device.type == DEVICE
        torch.manual_seed(0)
        train(run, features(25), {}, {})
        states.append(random_states(run.accelerator.device))
        weights.append(release_state_dict(model))
    assert DEVICE in states[0]
    assert states[1] == states[0]
    assert_same_weights(*weights[::-1])
    measured = [row["liveness"] for row in metrics_of(tmp_path / "3") if "liveness" in row]
    assert len(measured) == 2
    assert min(measured) > 0
