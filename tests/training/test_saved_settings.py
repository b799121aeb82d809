"""A saved model that is used with other settings than its training had."""

import json

import pytest
from script_runs import message
from test_data import write

from training import arguments
from training.saved_settings import compare_with_training


@pytest.fixture
def scored(tmp_path):
    """scored(trained with, used with, checkpoint) -> the arguments of an evaluation of a run's checkpoint."""

    def make(trained: list[str], now: list[str], checkpoint: str = "best"):
        given = ["--do_train", "--train_file", "x.csv", *trained]
        args = vars(arguments.of_script("run_sent_clas", given))
        write(tmp_path / "run" / "results.json", json.dumps({"args": args}))
        (tmp_path / "run" / "best").mkdir(exist_ok=True)
        (tmp_path / "run" / "2_pytorch_model.bin").touch()
        model = ["--do_eval", "--test_model_file", str(tmp_path / "run" / checkpoint)]
        return arguments.of_script("run_sent_clas", [*model, *(now or ["--dev_file", "y.csv"])])

    return make


def test_other_settings_are_told(scored, tmp_path, caplog):
    dev = ["--dev_file", "y.csv"]
    compare_with_training(scored(["--max_seq_length", "256", "--text_columns", "a,b"], dev))
    run = tmp_path / "run"
    for then, now in (("--max_seq_length 256", "--max_seq_length 128"), ("--text_columns a,b", "no --text_columns")):
        advice = f"(--args_from {run} takes the settings of the training)"
        said = f"{run / 'best'}: trained with {then}, and now used with {now} {advice}"
        assert said in caplog.text
    caplog.clear()
    compare_with_training(scored(["--max_seq_length", "256"], [*dev, "--max_seq_length", "256"]))
    compare_with_training(scored(["--load_model_path", "other"], dev))
    assert caplog.text == ""


def test_a_state_dict_does_not_know_its_encoder(scored, caplog):
    compare_with_training(scored(["--load_model_path", "other"], [], "2_pytorch_model.bin"))
    assert "trained with --load_model_path other, and now used with --load_model_path bert-base-uncased" in caplog.text


def test_masks_of_another_budget_are_told(scored, tmp_path, caplog):
    masks = ["--eval_masks", str(tmp_path / "run" / "2_pytorch_model.bin"), "--method", "asa_budget"]
    compare_with_training(scored(["--method", "asa_budget", "--asa_budget", "0.2"], ["--dev_file", "y.csv", *masks]))
    assert "2_pytorch_model.bin: trained with --asa_budget 0.2, and now used with --asa_budget 0.1" in caplog.text
    compare_with_training(scored(["--method", "asa_budget"], ["--dev_file", "y.csv", *masks[:2]]))
    assert "2_pytorch_model.bin: trained with --method asa_budget, and now used with --method asa" in caplog.text


@pytest.mark.parametrize(("flag", "value"), [("--seed", "7"), ("--dev_fraction", "0.2")])
def test_rows_that_were_trained_on_are_not_held_out(flag, value, scored):
    held_out = ["--train_file", "x.csv", "--dev_fraction", "0.1"]
    trained = {"--dev_fraction": "0.1", flag: value}
    args = scored([part for pair in trained.items() for part in pair], held_out)
    said = message(compare_with_training, args)
    assert said.startswith(f"{flag} {'42' if flag == '--seed' else '0.1'}: the training of ")
    assert said.endswith(f"had {value}, and held out other rows")
    compare_with_training(scored(["--do_eval", "--dev_fraction", "0.1"], held_out))
    compare_with_training(scored(["--do_eval", "--seed", "7"], ["--train_file", "other.csv", *held_out[2:]]))


def test_without_held_out_rows_all_were_trained_on(scored):
    args = scored([], ["--train_file", "elsewhere/x.csv", "--dev_fraction", "0.1"])
    assert message(compare_with_training, args).endswith("held out no rows: give a --dev_file")


def test_a_checkpoint_from_elsewhere(tmp_path, caplog):
    for content in (None, "{}", "no JSON"):
        (tmp_path / "best").mkdir(exist_ok=True)
        if content is not None:
            write(tmp_path / "results.json", content)
        given = ["--do_eval", "--dev_file", "y.csv", "--test_model_file", str(tmp_path / "best")]
        compare_with_training(arguments.of_script("run_sent_clas", given))
    assert caplog.text == ""
