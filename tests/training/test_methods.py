"""The methods from the command line: their flags, what a run of each leaves, and settings that cannot be."""

import json
from argparse import Namespace
from pathlib import Path

import pytest
from conftest import tiny_backbone
from script_runs import flags_of, message, results_of, run_folder
from small_baselines import BASELINES, SETTINGS
from test_data import write

import run_multi_cho
import run_sent_clas
import run_tok_clas
from models import asa, baselines, encoder_types
from models import methods as registry
from models.checkpoints import read_state_dict
from models.methods import METHODS
from training import arguments, flags


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    rows = ["a warm film\t1", "a dull plot\t0", "a warm film with music\t1"]
    question = {"question": "good?", "choice": ["the film", "the music", "the script"], "answer": "the film"}
    dialogues = [[["M: is it good?"], [question], "1"], [["W: it is dull."], [question], "2"]]
    for name in ("train", "dev"):
        write(folder / "sst-2" / f"{name}.tsv", "sentence\tlabel", *rows)
        write(folder / "dream" / f"{name}.json", json.dumps(dialogues))
        write(folder / "wnut-2017" / f"{name}.txt", "the\tO", "film\tB-product", "", "music\tB-group", "")
    return folder


@pytest.mark.parametrize("method", BASELINES)
@pytest.mark.parametrize(
    ("script", "task"), [(run_sent_clas, "SST-2"), (run_multi_cho, "DREAM"), (run_tok_clas, "WNUT-2017")]
)
def test_from_the_command_line(script, task, method, data_dir, encoder_folder, tmp_path):
    flags = flags_of(SETTINGS[method])
    flags += ["--do_train", "--do_eval", "--method", method, "--gradient_accumulation_steps", "2", "--bf16"]
    flags += ["--logging_steps", "1"]
    out = run_folder(script.main, data_dir, encoder_folder, tmp_path / "out", task, *flags)
    record = results_of(out)
    assert {name: record["args"][name] for name in SETTINGS[method]} == SETTINGS[method]
    assert {flag for each in METHODS.values() for flag in each.flags} <= record["args"].keys()
    assert record["epochs"][0]["train_loss"] > 0
    assert (record["epochs"][0]["keep_rate"] is not None) == (method == "random_mask")
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert lines
    assert not any("penalty" in line for line in lines)
    state = read_state_dict(out / "0_pytorch_model.bin")
    exported = read_state_dict(out / "best" / "model.safetensors")
    assert state.keys() - exported.keys() == {"bert.embeddings.position_ids"}  # which the release keeps
    assert exported.keys() <= state.keys()
    assert not [name for name in state if not name.startswith(("bert.", "classifier."))]


@pytest.mark.parametrize("method", METHODS)
def test_the_release_s_roberta_has_no_attention_dropout_with_any_method(method):
    backbone = tiny_backbone("roberta", attention_probs_dropout_prob=0.25)
    registry.build(method, backbone, Namespace(protocol="release", **SETTINGS.get(method, {})))
    assert {layer.attention.self.dropout.p for layer in backbone.roberta.encoder.layer} == {0.0}


@pytest.mark.parametrize(
    ("flag", "value", "said"),
    [
        ("--random_mask_keep_rate", "0", "'0' is not a number above 0, up to 1"),
        ("--rdrop_alpha", "-1", "'-1' is not a number from 0"),
        ("--freelb_steps", "0", "'0' is not a whole number from 1 to 10^12"),
        ("--freelb_lr", "nan", "'nan' is not a number above 0"),
        ("--freelb_embedding_norm", "-1", "'-1' is not a number from 0"),
        ("--smart_momentum", "2", "'2' is not a number from 0 to 1"),
        ("--smart_early_momentum", "-0.1", "'-0.1' is not a number from 0 to 1"),
        ("--r3f_noise", "cauchy", "invalid choice: 'cauchy' (choose from"),
        ("--asa_layers", "3-1", "'3-1' names no layers: give numbers as in 0-3 or 0,2,5, or all"),
        ("--asa_layers", "1,", "'1,' names no layers"),
        ("--asa_divergence_weight", "-1", "'-1' is not a number from 0"),
        ("--asa_budget", "0", "'0' is not a number above 0, up to 1"),
        ("--random_mask_budget", "1.1", "'1.1' is not a number above 0, up to 1"),
        ("--adversary_learning_rate", "-1", "'-1' is not a number from 0"),
        ("--liveness_steps", "0.5", "'0.5' is not a whole number from 0 to 4294967295"),
    ],
)
def test_settings_that_cannot_be(flag, value, said, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        run_sent_clas.main(
            ["--do_train", "--task_name", "SST-2", f"{flag}={value}", "--output_dir", str(tmp_path / "x")]
        )
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert f"argument {flag}: {said}" in error
    assert error.count("\n") == 1


def test_two_ways_to_say_how_much_is_masked_at_random(tmp_path):
    both = ["--method", "random_mask", "--random_mask_budget", "0.1", "--random_mask_keep_rate", "0.5"]
    said = message(
        run_sent_clas.main, ["--do_train", "--task_name", "SST-2", *both, "--output_dir", str(tmp_path / "x")]
    )
    assert said == "--random_mask_budget and --random_mask_keep_rate exclude each other: give one of them"


def test_a_warm_up_that_a_schedule_does_not_have(monkeypatch, caplog):
    for schedule, warned in (("constant", True), ("constant_with_warmup", False)):
        given = ["--do_train", "--task_name", "SST-2", "--lr_scheduler_type", schedule, "--warmup_proportion", "0.1"]
        monkeypatch.setattr("sys.argv", ["run_sent_clas.py", *given])
        arguments.of_script("run_sent_clas", None)
        assert ("--warmup_proportion has no effect with --lr_scheduler_type constant" in caplog.text) == warned
        caplog.clear()


@pytest.mark.parametrize(
    ("text", "numbers"), [("0-3", [0, 1, 2, 3]), ("5,0, 2", [0, 2, 5]), ("1-2,2-4", [1, 2, 3, 4]), ("all", None)]
)
def test_layers_as_people_write_them(text, numbers):
    assert flags.layers(text) == numbers


@pytest.mark.parametrize(
    ("script", "task"), [(run_sent_clas, "SST-2"), (run_multi_cho, "DREAM"), (run_tok_clas, "WNUT-2017")]
)
def test_a_row_budget_from_the_command_line(script, task, data_dir, encoder_folder, tmp_path):
    """A row of n tokens keeps n - round(n / 2) of n keys, and tau changes nothing."""
    flags = ["--do_train", "--do_eval", "--method", "asa_budget", "--asa_budget", "0.5", "--bf16"]
    given = script.main, data_dir, encoder_folder
    records = [
        results_of(run_folder(*given, tmp_path / tau, task, *flags, "--tau", tau, "--liveness_steps", "1"))
        for tau in ("0.5", "9")
    ]
    assert records[0]["args"]["asa_budget"] == 0.5
    assert [rate == pytest.approx(0.5, abs=0.1) for rate in records[0]["best"]["keep_rate"]] == [True, True]
    timed = [record["best"].pop("seconds") for record in records]
    assert len(timed) == 2
    assert records[0]["best"] == records[1]["best"]
    lines = [json.loads(line) for line in (tmp_path / "9" / "metrics.jsonl").read_text().splitlines()]
    assert [line["liveness"] > 0 for line in lines if line["step"] == 1] == [True]
    assert all("penalty" not in line for line in lines)


@pytest.mark.parametrize("method", ["asa", "random_mask"])
def test_some_layers_from_the_command_line(method, data_dir, encoder_folder, tmp_path):
    def run(layers: str) -> Path:
        flags = ["--do_train", "--method", method, "--asa_layers", layers]
        return run_folder(run_sent_clas.main, data_dir, encoder_folder, tmp_path / "out", "SST-2", *flags)

    assert message(run, "0-2") == "--asa_layers: there is no layer 2: the encoder has the layers 0 to 1"
    assert not (tmp_path / "out").exists()
    out = run("1")
    record = results_of(out)
    assert record["args"]["asa_layers"] == [1]
    assert len(record["best"]["keep_rate"]) == 1
    numbers = {name.split(".")[3] for name in read_state_dict(out / "0_pytorch_model.bin") if "adversary" in name}
    assert numbers == ({"1"} if method == "asa" else set())


def test_the_choices_of_the_command_line_are_those_of_the_modules():
    assert registry.PROTOCOLS == asa.PROTOCOLS
    assert registry.ATTENTION_IMPLEMENTATIONS == encoder_types.EAGER_AND_SDPA
    assert registry.R3F_NOISES == baselines.R3F_NOISES
