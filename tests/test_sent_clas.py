"""run_sent_clas.py as people use it: real command lines, a tiny encoder, small text of our own."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SIZES
from script_runs import exit_status, flags_of
from test_data import FORMATS, write
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification, AutoTokenizer, pipeline

import run_sent_clas
from models import methods
from models.checkpoints import read_state_dict
from models.methods import METHODS
from training import arguments

ROOT = Path(__file__).parent.parent
LINE = re.compile(
    r"Epoch (\d+): global step = (\d+) \| train loss = (\d+\.\d{3})"
    r" \| eval score = (-?\d+\.\d\d) \| eval loss = (\d+\.\d{3})"
)
GOOD, BAD = "a warm film", "a dull plot"


@pytest.fixture
def data_dir(tmp_path) -> Path:
    """SST-2 with 17 training rows, which batches of 4 leave one of, and 9 dev rows."""
    rows = [f"{text}\t{label}" for label, text in ((1, GOOD), (0, BAD))]
    write(tmp_path / "data" / "sst-2" / "train.tsv", "sentence\tlabel", *(rows * 8), f"{GOOD} with music\t1")
    write(tmp_path / "data" / "sst-2" / "dev.tsv", "sentence\tlabel", *(rows * 4), f"{BAD} and more of it\t0")
    write(tmp_path / "data" / "sst-2" / "test.tsv", "index\tsentence", f"0\t{GOOD}", f"1\t{BAD}", "2\ta film")
    return tmp_path / "data"


@pytest.fixture
def command(data_dir, encoder_folder, tmp_path, monkeypatch):
    """Run the script in this process: command(flags) -> exit status."""
    monkeypatch.setattr(sys, "argv", ["run_sent_clas.py"])

    def run(*flags: str, **changes: str | None) -> int:
        settings = {
            "task_name": "SST-2",
            "data_dir": str(data_dir),
            "load_model_path": encoder_folder,
            "output_dir": str(tmp_path / "out"),
            "train_batch_size": "4",
            "num_train_epochs": "2",
            "learning_rate": "1e-3",
            "max_seq_length": "16",
            **changes,
        }
        return exit_status(run_sent_clas.main, *flags_of(settings), *flags)

    return run


def results(folder: Path) -> dict:
    return json.loads((folder / "results.json").read_text())


# --- what a run leaves behind ---


@pytest.mark.parametrize("method", ["asa", "naive"])
def test_train_evaluate_and_test(method, command, tmp_path, capsys):
    out = tmp_path / "out"
    scores = write(out / "other" / "evaluation.json", "{}")  # of another model: no weights go here
    assert command("--do_train", "--do_eval", "--do_test", method=method, logging_steps="2") == 0
    assert scores.exists()
    shutil.rmtree(scores.parent)
    assert sorted(path.name for path in out.iterdir()) == [
        "0_pytorch_model.bin",
        "1_pytorch_model.bin",
        "SST-2.tsv",
        "best",
        "eval_results.txt",
        "metrics.jsonl",
        "predictions",
        "results.json",
    ]
    lines = (out / "eval_results.txt").read_text().splitlines()
    assert capsys.readouterr().out.splitlines() == lines
    assert [LINE.fullmatch(line).group(1, 2) for line in lines] == [("0", "5"), ("1", "10")]

    record = results(out)
    assert record["examples"] == {"train": 17, "eval": 9, "test": 3}
    assert record["args"]["method"] == method
    assert record["args"]["warmup_proportion"] == 0.06
    assert record["versions"]["torch"].startswith(torch.__version__.split("+")[0])
    assert record["device"].startswith("c")
    for line, epoch in zip(lines, record["epochs"], strict=True):
        score, loss = (f"{epoch['eval_score']:.2f}", f"{epoch['eval_loss']:.3f}")
        assert LINE.fullmatch(line).group(4, 5) == (score, loss)
        assert epoch["metrics"] == {"accuracy": epoch["eval_score"]}
        assert epoch["seconds"] > 0
        if method == "asa":
            assert len(epoch["keep_rate"]) == 2
            assert 0 <= epoch["fully_masked"] <= 1
        else:
            assert (epoch["keep_rate"], epoch["fully_masked"]) == (None, None)
    logged = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in logged] == [2, 4, 6, 8, 10]
    assert ("keep_rate" in logged[0]) == (method == "asa")
    assert (out / "SST-2.tsv").read_text().splitlines()[0] == "index\tprediction"

    state = torch.load(out / "0_pytorch_model.bin", weights_only=True)
    assert ("bert.encoder.adversary.0.query.weight" in state) == (method == "asa")
    assert AutoModelForSequenceClassification.from_pretrained(out / "best").config.num_labels == 2
    assert pipeline("text-classification", model=str(out / "best"))(GOOD)[0]["label"] in ("0", "1")


def test_it_learns(command, tmp_path):
    assert command("--do_train", "--do_eval", "--do_test", num_train_epochs="8", learning_rate="3e-3") == 0
    assert results(tmp_path / "out")["best"]["eval_score"] == 100
    assert (tmp_path / "out" / "SST-2.tsv").read_text().startswith("index\tprediction\n0\t1\n1\t0\n2\t")


def test_a_saved_checkpoint_scores_as_it_did(command, tmp_path, capsys):
    """From our own file, which is the release's format, and from the Hugging Face folder; alone and with --do_test."""
    assert command("--do_train", "--do_eval") == 0
    best = results(tmp_path / "out")["best"]
    expected = f"eval score = {best['eval_score']:.2f} | eval loss = {best['eval_loss']:.3f}"
    for number, source in enumerate((f"{best['epoch']}_pytorch_model.bin", "best")):
        capsys.readouterr()
        folder = tmp_path / f"evaluation{number}"
        file = str(tmp_path / "out" / source)
        assert command("--do_eval", "--do_test", test_model_file=file, output_dir=str(folder)) == 0
        assert capsys.readouterr().out.strip() == expected
        assert sorted(path.name for path in folder.iterdir()) == ["SST-2.tsv", "evaluation.json", "predictions"]
        record = json.loads((folder / "evaluation.json").read_text())
        assert record["eval_score"] == pytest.approx(best["eval_score"])
        assert record["args"]["test_model_file"] == file


def test_the_second_command_of_the_readme_works_on_the_folder_of_the_first(command, tmp_path):
    assert command("--do_train", "--do_eval", "--do_lower_case", "--fp16", model_type="bert") == 0
    file = str(tmp_path / "out" / "1_pytorch_model.bin")
    before = (tmp_path / "out" / "results.json").read_bytes()
    assert command("--do_test", "--do_lower_case", model_type="bert", test_model_file=file) == 0
    assert (tmp_path / "out" / "SST-2.tsv").is_file()
    assert (tmp_path / "out" / "results.json").read_bytes() == before


def test_runs_repeat_exactly_and_seeds_differ(command, tmp_path):
    found = []
    for number, seed in enumerate(("1", "1", "2")):
        assert command("--do_train", "--do_eval", seed=seed, output_dir=str(tmp_path / str(number))) == 0
        found.append(read_state_dict(tmp_path / str(number) / "1_pytorch_model.bin"))
    first, again, other = found
    assert all(torch.equal(tensor, again[name]) for name, tensor in first.items())
    assert not torch.equal(first["classifier.weight"], other["classifier.weight"])


def test_worker_processes_and_accumulation_change_no_figure(command, tmp_path):
    """The tiny encoder has no dropout, so that parts of a batch add up to the whole."""
    found = []
    for number, changes in enumerate(({}, {"num_workers": "1"}, {"gradient_accumulation_steps": "3"})):
        status = command(
            "--do_train", "--do_eval", "--no_group_by_length", output_dir=str(tmp_path / str(number)), **changes
        )
        assert status == 0
        found.append([(epoch["train_loss"], epoch["eval_loss"]) for epoch in results(tmp_path / str(number))["epochs"]])
    assert found[1] == found[0]
    assert np.allclose(found[2], found[0], rtol=1e-4)


def test_attention_is_the_same_for_every_method(command, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    used, build = [], methods.build
    monkeypatch.setattr(
        methods,
        "build",
        lambda name, model, args: used.append(model.config._attn_implementation) or build(name, model, args),
    )
    defaults = [(method, None, "eager") for method in METHODS]
    for method, given, expected in (*defaults, ("asa", "sdpa", "sdpa")):
        changes = {"attn_implementation": given} if given else {}
        assert command("--do_train", "--overwrite_output_dir", method=method, max_train_steps="1", **changes) == 0
        assert results(tmp_path / "out")["args"]["attn_implementation"] == used[-1] == expected


def test_release_protocol_pads_to_the_full_length_in_random_batches(command, tmp_path, monkeypatch):
    widths = set()
    forward = torch.nn.Embedding.forward
    monkeypatch.setattr(
        torch.nn.Embedding, "forward", lambda self, ids: (widths.add(ids.shape[-1]), forward(self, ids))[1]
    )
    assert command("--do_train", "--do_eval", protocol="release") == 0
    assert widths == {16}
    args = results(tmp_path / "out")["args"]
    assert (args["pad_to_max_length"], args["group_by_length"]) == (True, False)
    assert command("--do_train", "--overwrite_output_dir") == 0
    assert max(widths - {16}) < 10
    args = results(tmp_path / "out")["args"]
    assert (args["pad_to_max_length"], args["group_by_length"]) == (False, True)
    assert results(tmp_path / "out")["best"]["epoch"] == 1  # without an evaluation the last


@pytest.mark.parametrize("model_type", ["albert", "camembert", "distilbert", "electra", "roberta", "xlm-roberta"])
def test_other_encoders(model_type, command, encoder_folder, tmp_path):
    """A folder with a model of another type and the tokenizer of the first."""
    tokenizer = AutoTokenizer.from_pretrained(encoder_folder)
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    config = AutoConfig.for_model(model_type, **SIZES[model_type] | {"vocab_size": len(tokenizer)})
    AutoModel.from_config(config).save_pretrained(tmp_path / "encoder")
    tokenizer.save_pretrained(tmp_path / "encoder")
    status = command("--do_train", "--do_eval", load_model_path=str(tmp_path / "encoder"), model_type=model_type)
    assert status == 0
    assert len(results(tmp_path / "out")["best"]["keep_rate"]) == 3
    file = str(tmp_path / "out" / "1_pytorch_model.bin")
    arguments = {"load_model_path": str(tmp_path / "encoder"), "test_model_file": file}
    assert command("--do_eval", output_dir=str(tmp_path / "again"), **arguments) == 0
    record = json.loads((tmp_path / "again" / "evaluation.json").read_text())
    assert record["eval_loss"] == pytest.approx(results(tmp_path / "out")["epochs"][1]["eval_loss"], rel=1e-4)


@pytest.mark.parametrize("task", sorted(set(FORMATS) - {"SST-2", "DEMO"}))
def test_every_task_trains_and_is_tested(task, command, tmp_path):
    header, row, *_, test_header = FORMATS[task]
    folder = tmp_path / "tasks" / task
    lines = [*([header] if header else []), *([row] * 5)]
    train, dev = "train.tsv", {"MNLI": "dev_matched.tsv", "PAWS-QQP": "dev_and_test.tsv"}.get(task, "dev.tsv")
    for name in (train, dev):
        write(folder / name, *lines)
    flags = ["--do_train", "--do_eval"]
    if test_header:
        values = "\t".join("7" if column in ("index", "id") else "a plot" for column in test_header.split("\t"))
        for name in ("test_matched.tsv", "test_mismatched.tsv") if task == "MNLI" else ("test.tsv",):
            write(folder / name, test_header, values)
        flags.append("--do_test")
    assert command(*flags, task_name=task, data_dir=str(tmp_path / "tasks"), num_train_epochs="1") == 0
    record = results(tmp_path / "out")["best"]
    assert np.isfinite([record["eval_score"], record["eval_loss"], *record["metrics"].values()]).all()
    if test_header:
        names = ["MNLI-m", "MNLI-mm"] if task == "MNLI" else [task]
        for name in names:
            lines = (tmp_path / "out" / f"{name}.tsv").read_text().splitlines()
            assert lines[0] == "index\tprediction"
            assert lines[1].startswith("7\t")
            assert len(lines) == 2


def test_anli_is_evaluated_by_round_and_on_its_test_set(command, tmp_path):
    row = {"context": "a plot", "hypothesis": "the plot", "label": "e"}
    for split, count in (("train", 2), ("dev", 1), ("test", 2)):
        for name in ("R1", "R2", "R3"):
            write(tmp_path / "data" / "anli" / name / f"{split}.jsonl", *[json.dumps(row)] * count)
    assert command("--do_train", "--do_eval", task_name="anli", eval_on="test") == 0
    record = results(tmp_path / "out")
    assert record["examples"] == {"train": 6, "eval": 6}
    assert list(record["best"]["metrics"]) == ["accuracy", "R1/accuracy", "R2/accuracy", "R3/accuracy"]


# --- what cannot be (the rest stands in test_bad_input.py) ---


def test_a_run_that_diverges_is_one_sentence(command, capsys):
    assert command("--do_train", learning_rate="1e30") == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("run_sent_clas.py: error: step 2, epoch 0: the loss or its gradient is not finite")


def test_results_are_not_replaced_unless_asked(command, tmp_path, capsys):
    assert command("--do_train", "--do_eval", "--do_test", num_train_epochs="1") == 0
    files = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    again = {"test_model_file": str(tmp_path / "out" / "0_pytorch_model.bin")}
    for flags, changes in ((["--do_train"], {}), (["--do_test"], again)):
        assert command(*flags, **changes) == 2
        assert "it has results already" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()} == files
    # Of the weights that now go, and of others.
    of = {"task_name": "SST-2", "test_model_file": str(tmp_path / "out" / "0_pytorch_model.bin")}
    scores = write(tmp_path / "out" / "on-others" / "evaluation.json", json.dumps({"args": of}))
    others = write(tmp_path / "out" / "of-others" / "evaluation.json", "{}")
    assert command("--do_train", "--do_eval", "--overwrite_output_dir", num_train_epochs="2", seed="7") == 0
    assert (scores.exists(), others.exists()) == (False, True)
    assert results(tmp_path / "out")["args"]["seed"] == 7
    assert len((tmp_path / "out" / "eval_results.txt").read_text().splitlines()) == 2


def test_defaults_are_those_of_the_release():
    args = vars(arguments.of_script("run_sent_clas", ["--do_train", "--task_name", "SST-2"]))
    expected = {
        "load_model_path": "bert-base-uncased",
        "output_dir": "model",
        "max_seq_length": 128,
        "seed": 42,
        "tau": 0.5,
        "train_batch_size": 32,
        "eval_batch_size": 128,
        "learning_rate": 1e-05,
        "num_train_epochs": 3,
        "lr_scheduler_type": "linear",
        "warmup_proportion": 0.06,
        "weight_decay": 0.01,
        "gradient_accumulation_steps": 1,
        "max_train_steps": None,
        "test_model_file": None,
        "eval_on": "dev",
    }
    # Of the baselines, those of their papers or authors' code: docs/baselines.md.
    expected |= {
        "asa_divergence_weight": 1.0,
        "rdrop_alpha": 1.0,
        "freelb_steps": 2,
        "freelb_lr": 0.1,
        "freelb_init": 1.0,
        "freelb_max_norm": 0.6,
        "freelb_embedding_norm": 4.4,
        "smart_weight": 1.0,
        "smart_noise": 1e-5,
        "smart_step_size": 1e-3,
        "smart_steps": 1,
        "smart_radius": 0.0,
        "r3f_weight": 1.0,
        "r3f_eps": 1e-5,
        "r3f_noise": "uniform",
    }
    assert {name: args[name] for name in expected} == expected
    assert (
        arguments.of_script(
            "run_sent_clas", ["--do_train", "--task_name", "x", "--num_train_epochs", "3.0"]
        ).num_train_epochs
        == 3
    )


def test_from_the_shell(data_dir, encoder_folder, tmp_path):
    """The exit status and the two streams of a real process in good order."""
    script = [sys.executable, str(ROOT / "run_sent_clas.py"), "--task_name", "sst-2", "--data_dir", str(data_dir)]
    script += ["--load_model_path", encoder_folder, "--output_dir", str(tmp_path / "out"), "--max_seq_length", "16"]
    settings = {"capture_output": True, "text": True, "cwd": tmp_path}
    good = subprocess.run([*script, "--do_train", "--do_eval", "--num_train_epochs", "1"], **settings)
    assert good.returncode == 0, good.stderr
    assert LINE.fullmatch(good.stdout.strip())
    assert "keep rate" in good.stderr
