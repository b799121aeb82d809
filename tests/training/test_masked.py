"""Evaluation under masks: whose masks, what they do to the predictions, and what cannot be."""

import json

import numpy as np
import pytest
import torch
from conftest import tiny_backbone, tiny_batch
from script_runs import message, run_folder
from test_data import write

import run_sent_clas
from data.predictions import read_predictions
from experiments.records import read_results
from models.asa import AsaModel
from models.checkpoints import backbone_of, save_checkpoint
from training.masked import UnderMasks, load_adversaries


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    rows = ["a warm film\t1", "a dull plot with a weak script\t0", "a warm film with music is not it\t1"]
    for name in ("train", "dev"):
        write(folder / "sst-2" / f"{name}.tsv", "sentence\tlabel", *rows)
    return folder


def test_predictions_under_the_masks_of_another(data_dir, encoder_folder, tmp_path):
    """Of the adversaries of another seed, which leave the model's own predictions as they are elsewhere."""

    def run(name: str, *flags: str):
        return run_folder(run_sent_clas.main, data_dir, encoder_folder, tmp_path / name, "SST-2", *flags)

    for seed in ("1", "2"):
        run(seed, "--do_train", "--do_eval", "--method", "asa_budget", "--asa_budget", "0.5", "--seed", seed)
    checkpoints = {seed: str(tmp_path / seed / "0_pytorch_model.bin") for seed in ("1", "2")}
    logits = {"trained": read_predictions(next((tmp_path / "1" / "predictions").iterdir()))["logits"]}
    ways = {
        "plain": (),
        "own": ("--eval_masks", checkpoints["1"], "--method", "asa_budget", "--asa_budget", "0.5"),
        "other": ("--eval_masks", checkpoints["2"], "--method", "asa_budget", "--asa_budget", "0.5"),
        "random": ("--eval_masks", "random", "--method", "random_mask", "--random_mask_budget", "0.5"),
        "again": ("--eval_masks", "random", "--method", "random_mask", "--random_mask_budget", "0.5"),
        "drawn": ("--eval_masks", "random", "--method", "random_mask", "--random_mask_budget", "0.5", "--seed", "7"),
    }
    for name, flags in ways.items():
        folder = run(f"1/{name}", "--do_eval", "--test_model_file", checkpoints["1"], *flags)
        assert json.loads((folder / "evaluation.json").read_text())["args"]["seed"] == (7 if name == "drawn" else 42)
        logits[name] = read_predictions(next((folder / "predictions").iterdir()))["logits"]
    np.testing.assert_allclose(logits["plain"], logits["trained"], rtol=1e-5)
    assert logits["again"] == logits["random"]
    different = [json.dumps(logits[name]) for name in ("plain", "own", "other", "random", "drawn")]
    assert len(set(different)) == 5
    told = {result.name: result.scored_on for result in read_results(tmp_path)}
    assert told["1/own"] == "SST-2 dev under its own adversaries (asa_budget 0.5)"
    assert told["1/other"] == "SST-2 dev under other adversaries (asa_budget 0.5)"
    assert told["1/random"] == "SST-2 dev under random masks (random_mask_budget 0.5)"
    assert told["1/plain"] == "SST-2 dev"


def test_it_is_the_adversarial_pass():
    model = AsaModel(tiny_backbone(), budget=0.4)
    masked, batch = UnderMasks(model).eval(), tiny_batch()
    assert backbone_of(masked) is model.backbone
    with torch.no_grad(), model.adversarial_mode(batch["attention_mask"]):
        expected = model.backbone(**batch)
    with torch.no_grad():
        output = masked(**batch)
        assert not torch.equal(output.logits, model.backbone(**batch).logits)
    assert torch.equal(output.logits, expected.logits)
    assert output.loss == expected.loss


def test_adversaries_of_a_run_that_diverged_are_refused(tmp_path):
    model = AsaModel(tiny_backbone())
    with torch.no_grad():
        model.adversaries[1].key.bias[0] = float("nan")
    save_checkpoint(model, tmp_path / "a.bin")
    said = message(load_adversaries, AsaModel(tiny_backbone()), str(tmp_path / "a.bin"))
    assert said == f"--eval_masks {tmp_path / 'a.bin'}: 1.key.bias is not finite: the run that saved it diverged"


def test_adversaries_that_do_not_fit(tmp_path):
    path = str(tmp_path / "model.bin")
    save_checkpoint(AsaModel(tiny_backbone(), layers=[1], budget=0.4), path)
    said = message(load_adversaries, AsaModel(tiny_backbone(), budget=0.4), path)
    assert said.startswith(f"--eval_masks {path}: the adversaries of another encoder or of other layers")
    save_checkpoint(tiny_backbone(), path)
    said = message(load_adversaries, AsaModel(tiny_backbone(), budget=0.4), path)
    assert said.startswith(f"--eval_masks {path}: it has no adversaries")


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--do_train",), "--eval_masks is for the evaluation of a checkpoint: give it with --do_eval alone"),
        (("--do_test",), "--eval_masks is for the evaluation of a checkpoint"),
        (("--method", "rdrop"), "--eval_masks: --method rdrop has no masks: give asa, asa_budget or random_mask"),
        (("--method", "random_mask"), "and --method random_mask exclude each other: random_mask goes with random"),
        ((), "--eval_masks nothing.bin: no such file"),
    ],
)
def test_what_cannot_be(flags, said, tmp_path):
    given = ["--task_name", "SST-2", "--do_eval", "--eval_masks", "nothing.bin", "--output_dir", str(tmp_path / "x")]
    given += [] if "--do_train" in flags else ["--test_model_file", str(tmp_path)]
    assert said in message(run_sent_clas.main, [*given, *flags])
