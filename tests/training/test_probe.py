"""The probe: what does not fit is found before a run writes, and no figure of the run depends on it."""

import argparse
import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from children import run_both
from conftest import HEADS, save_tiny_encoder, tiny_backbone
from script_runs import message, results_of, run_folder, snapshot
from transformers import AutoTokenizer, DataCollatorForTokenClassification, DataCollatorWithPadding

import run_multi_cho
import run_sent_clas
import run_tok_clas
from benchmarks.kill_resume import command, make_data, make_encoder
from data.batches import ChoiceCollator
from data.features import Features
from data.readers import Splits
from models import methods
from models.checkpoints import read_state_dict
from models.methods import METHODS
from training import run as run_module
from training.evaluation import Head, Run
from training.probe import probe

COLLATORS = {
    "sequence": DataCollatorWithPadding,
    "choice": ChoiceCollator,
    "token": DataCollatorForTokenClassification,
}
# The largest id, the last of the tokenizer's, stands in a row that is neither the longest nor the shortest.
IDS = [[2, 10, 3], [2, 10, 11, 128, 3], [2, 10, 11, 12, 13, 14, 15, 3]]
SIZES = {"vocab_size": 129, "dtype": torch.float32, "num_labels": 2}


@pytest.fixture(scope="module")
def tokenizer(encoder_folder):
    return AutoTokenizer.from_pretrained(encoder_folder)


def rows_of(head: str = "sequence", regression: bool = False) -> Features:
    """Three rows of pairs; the second text begins with the third token."""
    ids = [[row, IDS[0]] for row in IDS] if head == "choice" else IDS

    def each(function, value=ids):
        return [each(function, part) for part in value] if isinstance(value[0], list) else function(value)

    columns = {
        "input_ids": ids,
        "attention_mask": each(lambda row: [1] * len(row)),
        "token_type_ids": each(lambda row: [0, 0] + [1] * (len(row) - 2)),
    }
    labels = [[0] * len(row) for row in IDS] if head == "token" else [0.5, 1.5, 0.0] if regression else [0, 1, 0]
    lengths = [len(row) for row in IDS]
    return Features(columns, labels, lengths=lengths)


def make_run(backbone, tokenizer, head: str = "sequence", method: str = "asa", test_model_file=None) -> Run:
    """As `execute` makes it, as far as the probe reads it."""
    args = argparse.Namespace(load_model_path="encoder", test_model_file=test_model_file)
    accelerator = argparse.Namespace(device=torch.device("cpu"), unwrap_model=lambda model: model)
    model = methods.build(method, backbone, argparse.Namespace(tau=0.5, protocol="corrected"))
    return Run(args, Head(HEADS[head], COLLATORS[head](tokenizer), None, None), accelerator, model, tokenizer, None)


def draws() -> tuple[float, ...]:
    return random.random(), np.random.random(), torch.rand(()).item()


@pytest.mark.parametrize("head", COLLATORS)
def test_it_leaves_nothing_behind(head, tokenizer):
    """The gradients are dropped, the random streams put back, and the weights are what they were."""
    run = make_run(tiny_backbone(head=head, **SIZES, hidden_dropout_prob=0.5), tokenizer, head)
    weights = {name: tensor.clone() for name, tensor in run.model.state_dict().items()}
    seen, backwards = [], []
    run.model.register_forward_hook(lambda module, given, output: seen.append((module.training, output.loss.item())))
    next(run.model.parameters()).register_hook(lambda gradient: backwards.append(gradient.norm().item()))
    expected = None
    for probed in (False, True):
        random.seed(1), np.random.seed(1), torch.manual_seed(1)
        if probed:
            probe(run, Splits(rows_of(head), {"dev": rows_of(head)}, {"dev": rows_of(head)}))
        expected = expected or draws()
    assert draws() == expected
    assert [training for training, _ in seen] == [True, False, False]
    assert seen[0][1] != seen[1][1] == seen[2][1]
    assert len(backwards) == 1
    assert backwards[0] > 0
    assert all(parameter.grad is None for parameter in run.model.parameters())
    assert all(torch.equal(tensor, weights[name]) for name, tensor in run.model.state_dict().items())


@pytest.mark.parametrize("method", METHODS)
def test_a_run_has_the_figures_that_it_has_without(method, tmp_path, monkeypatch):
    """With dropout, and what else the methods draw at random; losses and weights, bit by bit."""
    make_data(tmp_path / "sets", 11)
    make_encoder(tmp_path / "encoder")
    found = []
    for name, function in (("with", probe), ("without", lambda run, features: None)):
        monkeypatch.setattr(run_module, "probe", function)
        flags = ["--do_train", "--do_eval", "--do_test", "--method", method, "--logging_steps", "1"]
        folder = run_folder(
            run_sent_clas.main, tmp_path / "sets", str(tmp_path / "encoder"), tmp_path / name, "SST-2", *flags
        )
        logged = (folder / "metrics.jsonl").read_text()
        losses = [(epoch["train_loss"], epoch["eval_loss"]) for epoch in results_of(folder)["epochs"]]
        weights = read_state_dict(folder / "0_pytorch_model.bin")
        found.append((losses, logged, {name: tensor.tolist() for name, tensor in weights.items()}))
    assert found[0] == found[1]
    assert len(found[0][1].splitlines()) == 6


SEGMENTS = (
    'its tokenizer gives the segment id 1, and its encoder has type_vocab_size 1: take "token_type_ids" out of'
    ' "model_input_names" in its tokenizer_config.json'
)
MISFITS = [
    ("bert", {"vocab_size": 128}, "its tokenizer gives the token id 128, and its encoder has the ids 0 to 127 alone:"),
    ("bert", {"type_vocab_size": 1}, SEGMENTS),
    ("roberta", {"type_vocab_size": 1}, SEGMENTS),
    ("bert", {"max_position_embeddings": 7}, "its encoder has positions for 7 tokens, and there are rows of 8: lower"),
    ("roberta", {"max_position_embeddings": 8, "type_vocab_size": 2}, "its encoder has positions for 7 tokens, and"),
    (
        "bert",
        {"problem_type": "regression"},
        "its config.json has problem_type regression, and the task is single_label_classification: take",
    ),
    (
        "bert",
        {"problem_type": "multi_label_classification"},
        "its config.json has problem_type multi_label_classification, and the task is single_label_classification:",
    ),
]


@pytest.mark.parametrize(("model_type", "changes", "expected"), MISFITS, ids=range(len(MISFITS)))
@pytest.mark.parametrize("split", ["train", "eval"])
def test_what_does_not_fit_is_named(split, model_type, changes, expected, tokenizer, tmp_path):
    """Of a file that is scored, encoder and tokenizer are those of --load_model_path; a folder has its own."""
    rows = rows_of()
    splits = Splits(rows, {}, {}) if split == "train" else Splits(None, {"dev": rows}, {})
    for test_model_file in (None, tmp_path / "model.bin", tmp_path):
        run = make_run(tiny_backbone(model_type, **SIZES | changes), tokenizer, test_model_file=test_model_file)
        flag = f"--test_model_file {tmp_path}" if test_model_file == tmp_path else "--load_model_path encoder"
        assert message(probe, run, splits).startswith(f"{flag}: {expected}")


@pytest.mark.parametrize(("head", "changes"), [("choice", {"vocab_size": 128}), ("token", {"vocab_size": 128})])
def test_tokens_that_the_encoder_does_not_know_are_found_for_each_head(head, changes, tokenizer):
    run = make_run(tiny_backbone(head=head, **SIZES | changes), tokenizer, head)
    assert "gives the token id 128" in message(probe, run, Splits(rows_of(head), {}, {}))


def test_what_fits_to_the_last_token_is_no_misfit(tokenizer):
    for model_type, changes in (("bert", {}), ("roberta", {"type_vocab_size": 2, "max_position_embeddings": 9})):
        sizes = {"max_position_embeddings": 8, **SIZES, **changes}
        probe(make_run(tiny_backbone(model_type, **sizes), tokenizer), Splits(rows_of(), {}, {}))
    regression = SIZES | {"num_labels": 1, "problem_type": "regression"}
    probe(make_run(tiny_backbone(**regression), tokenizer), Splits(rows_of(regression=True), {}, {}))


def test_any_other_error_is_one_sentence(tokenizer):
    """Of a kind that nobody has thought of; not one of the system or the user, which end a program as they do."""
    run = make_run(tiny_backbone(**SIZES), tokenizer)
    error = KeyError("odd\nand long")
    hook = run.model.register_forward_pre_hook(lambda *given: (_ for _ in ()).throw(error))
    assert message(probe, run, Splits(None, {"dev": rows_of()}, {})) == (
        "--load_model_path encoder: its model cannot compute rows of dev as its tokenizer makes them"
        " (KeyError: 'odd\\nand long'): check that the two belong together"
    )
    error = torch.OutOfMemoryError("CUDA out of memory")
    assert message(probe, run, Splits(rows_of(), {}, {})) == (
        "cpu: not enough memory for a few rows of 8 tokens, the longest of the training set: lower --max_seq_length, or"
        " use --gradient_checkpointing"
    )
    hook.remove()
    run.model.register_forward_pre_hook(lambda *given: (_ for _ in ()).throw(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        probe(run, Splits(rows_of(), {}, {}))


def without_pad_token(folder: Path) -> Path:
    """An encoder whose tokenizer knows no pad token."""
    save_tiny_encoder(folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings.pop("pad_token", None)
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"tokenizer_class": "PreTrainedTokenizerFast"}))
    backend = json.loads((folder / "tokenizer.json").read_text())
    (folder / "tokenizer.json").write_text(json.dumps(backend | {"padding": None}))
    return folder


SCRIPTS = {"SST-2": run_sent_clas.main, "DREAM": run_multi_cho.main, "WNUT-2017": run_tok_clas.main}


@pytest.mark.parametrize("task", SCRIPTS)
def test_a_finished_run_is_untouched_by_an_encoder_that_does_not_fit(task, tmp_path):
    make_data(tmp_path / "sets", 5)
    make_encoder(tmp_path / "encoder")
    bad = without_pad_token(tmp_path / "bad")
    given = SCRIPTS[task], tmp_path / "sets"
    out = run_folder(*given, str(tmp_path / "encoder"), tmp_path / "out", task, "--do_train", "--do_eval")
    before = snapshot(out)
    said = message(run_folder, *given, str(bad), out, task, "--do_train", "--do_eval", "--overwrite_output_dir")
    assert said == (
        f"--load_model_path {bad}: its tokenizer has no pad token, which a batch of rows of different lengths needs:"
        ' name one as "pad_token" in its tokenizer_config.json'
    )
    assert snapshot(out) == before
    # Nor is a folder made for it; and what the sentence says to do helps.
    message(run_folder, *given, str(bad), tmp_path / "new", task, "--do_train", "--do_eval")
    assert not (tmp_path / "new").exists()
    settings = json.loads((bad / "tokenizer_config.json").read_text())
    (bad / "tokenizer_config.json").write_text(json.dumps(settings | {"pad_token": "[PAD]"}))
    run_folder(*given, str(bad), out, task, "--do_train", "--do_eval", "--overwrite_output_dir")
    assert snapshot(out) != before


def test_an_encoder_without_segment_types_works_as_the_sentence_says(encoder_folder, tmp_path):
    """Where another part of the program has not left the segment ids out already."""
    save_tiny_encoder(tmp_path / "encoder", type_vocab_size=1)
    settings = json.loads((tmp_path / "encoder" / "tokenizer_config.json").read_text())
    settings["model_input_names"] = ["input_ids", "attention_mask"]
    (tmp_path / "encoder" / "tokenizer_config.json").write_text(json.dumps(settings))
    make_data(tmp_path / "sets", 5)
    out = run_folder(
        run_multi_cho.main, tmp_path / "sets", str(tmp_path / "encoder"), tmp_path / "out", "DREAM", "--do_train"
    )
    assert results_of(out)["finished"]


def test_several_processes_write_nothing_where_it_does_not_fit(tmp_path):
    make_data(tmp_path / "sets", 5)
    without_pad_token(tmp_path / "encoder")
    (tmp_path / "out").mkdir()
    kept = tmp_path / "out" / "results.json"
    kept.write_text("{}")
    argv = command("run_sent_clas", tmp_path, tmp_path / "out", "--overwrite_output_dir")[2:]
    statuses, said = run_both("run_sent_clas", argv, tmp_path)
    assert statuses[0] == 2
    assert statuses[1] != 0  # it finds the same, or that the first has gone
    errors = {line for line in said.splitlines() if line.startswith("run_sent_clas.py: error: ")}
    assert len(errors) == 1
    assert ": its tokenizer has no pad token, " in errors.pop()
    assert [(path.name, path.read_text()) for path in (tmp_path / "out").iterdir()] == [("results.json", "{}")]
