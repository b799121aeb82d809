"""Flags, folders, checkpoints and encoders that cannot be used: one sentence, exit status 2, nothing written."""

import functools
import json
import math
import os
import pickle
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import save_tiny_encoder, tiny_backbone
from safetensors.torch import load_file, save_file
from script_runs import SCRIPTS
from test_bad_files import GOOD_FILES, write_set

import run_sent_clas
from models.asa import AsaModel
from models.checkpoints import release_state_dict
from models.encoders import PACKAGES

ROOT = Path(__file__).parent.parent
TRAIN, EVAL, TEST = "--do_train", "--do_eval", "--do_test"


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sets")
    for task, text in GOOD_FILES.items():
        for split in ("train", "dev"):
            write_set(folder, task, split, text)
    return folder


# --- flags ---

# (task, flags, what the sentence says)
BAD_FLAGS = [
    ("SST-2", [], "nothing to do: give --do_train, --do_eval or --do_test"),
    (None, [TRAIN], "--task_name is missing: name a task, or give data of your own with --train_file"),
    ("SST", [TRAIN], r"--task_name SST: no such task; did you mean SST-2\?"),
    ("", [TRAIN], "--task_name : no such task; known tasks are CoLA, SST-2"),
    ("WNUT-2017", [TRAIN], "--task_name WNUT-2017: a task of another script; known here are CoLA, SST-2"),
    ("SST-2", [TRAIN, "--task_name"], "argument --task_name: expected one argument"),
    ("SST-2", ["--do_trian"], r"unrecognized arguments: --do_trian; did you mean --do_train\?"),
    ("SST-2", [TRAIN, "--lr", "1"], "unrecognized arguments: --lr 1"),
    ("SST-2", ["--do-train"], r"unrecognized arguments: --do-train; did you mean --do_train\?"),
    ("SST-2", [TRAIN, "--learning-rate=1e-5"], r"unrecognized arguments: .*; did you mean --learning_rate\?"),
    ("SST-2", [TRAIN, "more"], "unrecognized arguments: more"),
    ("SST-2", ["--do_train=yes"], "argument --do_train: ignored explicit argument 'yes'"),
    ("SST-2", [TRAIN, "--learning_rate", "fast"], "argument --learning_rate: 'fast' is not a number above 0"),
    ("SST-2", [TRAIN, "--learning_rate", "0"], "argument --learning_rate: '0' is not a number above 0"),
    ("SST-2", [TRAIN, "--learning_rate", "-1e-5"], "argument --learning_rate: "),
    ("SST-2", [TRAIN, "--tau", "inf"], "argument --tau: 'inf' is not a number from 0"),
    ("SST-2", [TRAIN, "--tau", "nan"], "argument --tau: 'nan' is not a number from 0"),
    ("SST-2", [TRAIN, "--weight_decay=-1"], "argument --weight_decay: '-1' is not a number from 0"),
    ("SST-2", [TRAIN, "--warmup_proportion", "6"], "argument --warmup_proportion: '6' is not a number from 0 to 1"),
    (
        "SST-2",
        [TRAIN, "--num_train_epochs", "2.5"],
        "argument --num_train_epochs: '2.5' is not a whole number from 1 to",
    ),
    (
        "SST-2",
        [TRAIN, "--num_train_epochs", "1e99"],
        "argument --num_train_epochs: '1e99' is not a whole number from 1 to",
    ),
    ("SST-2", [TRAIN, "--train_batch_size", "0"], "argument --train_batch_size: '0' is not a whole number from 1 to"),
    (
        "SST-2",
        [TRAIN, "--eval_batch_size", "1e99"],
        "argument --eval_batch_size: '1e99' is not a whole number from 1 to",
    ),
    ("SST-2", [TRAIN, "--max_train_steps=-1"], "argument --max_train_steps: '-1' is not a whole number from 1 to"),
    ("SST-2", [TRAIN, "--num_workers", "1e9"], "argument --num_workers: '1e9' is not a whole number from 0 to 1024"),
    ("SST-2", [TRAIN, "--seed", "4294967296"], "argument --seed: '4294967296' is not a whole number from 0 to"),
    ("SST-2", [TRAIN, "--max_seq_length", "65"], "--max_seq_length 65: this encoder takes 3 to 64 tokens"),
    ("SST-2", [TRAIN, "--max_seq_length", "2"], "--max_seq_length 2: this encoder takes 3 to 64 tokens"),
    ("SST-2", [TRAIN, "--method", "asap"], r"argument --method: invalid choice: 'asap'.*; did you mean asa\?"),
    (
        "SST-2",
        [TRAIN, "--protocol", "relese"],
        r"argument --protocol: invalid choice: 'relese'.*; did you mean release\?",
    ),
    ("SST-2", [TRAIN, "--eval_on", "train"], "argument --eval_on: invalid choice: 'train' .*dev.*test"),
    ("SST-2", [TRAIN, "--report_to", "wandbb"], "--report_to wandbb: no such tracker: choose from none, all, aim, "),
    ("SST-2", [TRAIN, "--report_to", "all", "mlflow"], "--report_to all mlflow: none and all stand alone: give one of"),
    (
        "SST-2",
        [TRAIN, "--attn_implementation", "flash_attention_2"],
        "argument --attn_implementation: invalid choice: 'flash_attention_2'",
    ),
    ("SST-2", [TRAIN, "--model_type", "roberta"], "--model_type roberta: the checkpoint .* is a bert model"),
    ("SST-2", [TRAIN, "--fp16", "--bf16"], "--fp16 and --bf16 exclude each other: give one of them"),
    (
        "SST-2",
        [TRAIN, "--gradient_accumulation_steps", "33"],
        "--train_batch_size 32: fewer examples than --gradient_accumulation_steps 33",
    ),
    ("SST-2", [TEST], "--do_test without --do_train needs --test_model_file, the checkpoint to use"),
    ("SST-2", [EVAL], "--do_eval without --do_train needs --test_model_file, the checkpoint to use"),
    (
        "SST-2",
        [TRAIN, "--test_model_file", "absent.bin"],
        "--test_model_file and --do_train exclude each other: after training, its own model is evaluated and tested",
    ),
    ("SST-2", [TEST, "--test_model_file", "absent.bin"], "--test_model_file absent.bin: no such file or folder"),
    ("SST-2", [TRAIN, "--output_dir="], "--output_dir is empty: name the folder of this run"),
    ("SST-2", [TRAIN, "--load_model_path="], "--load_model_path is empty: name an encoder"),
    (
        "SST-2",
        [TRAIN, "--lr_scheduler_type", "polynomial", "--learning_rate", "1e-8"],
        "--learning_rate 1e-08: polynomial decay ends at 1e-07",
    ),
    (
        "SST-2",
        [TRAIN, "--lr_scheduler_type", "polynomial", "--warmup_proportion", "1"],
        "--warmup_proportion 1: polynomial decay needs steps after the warm-up: give less",
    ),
    ("DREEM", [TRAIN], r"--task_name DREEM: no such task; did you mean DREAM\?"),
    ("DREAM", [TRAIN, "--truncation", "first"], r"argument --truncation: invalid choice: 'first'.*"),
    ("DREAM", [TRAIN, "--dream_question", "all"], r"unrecognized arguments: .*; did you mean --dream_questions\?"),
    ("SWAG", [TRAIN, "--dream_questions", "all"], "--dream_questions all: only DREAM has several questions"),
    ("CONL2003", [TRAIN], r"--task_name CONL2003: no such task; did you mean CoNLL-2003\?"),
    ("WNUT-2017", [TRAIN, "--tau", "big"], "argument --tau: 'big' is not a number from 0"),
]
SCRIPT_OF = {"DREEM": SCRIPTS["DREAM"], "CONL2003": SCRIPTS["PTB"], "WNUT-2017": run_sent_clas}


@pytest.mark.parametrize(("task", "flags", "expected"), BAD_FLAGS, ids=range(len(BAD_FLAGS)))
def test_bad_flags(task, flags, expected, data_dir, encoder_folder, refused):
    script = SCRIPT_OF.get(task) if "--tau" not in flags else None
    script = script or SCRIPTS.get(task, run_sent_clas)
    said = refused(task, *flags, script=script, data_dir=data_dir, load_model_path=encoder_folder)
    assert re.match(expected, said)


# --- folders ---


def in_the_way(path: Path) -> dict:
    path.write_text("mine")
    return {"output_dir": path}


def below_a_file(path: Path) -> dict:
    path.write_text("mine")
    return {"output_dir": path / "out"}


def a_file_for_the_data(path: Path) -> dict:
    path.write_text("mine")
    return {"data_dir": path}


def a_file_for_the_task(path: Path) -> dict:
    path.mkdir()
    (path / "SST-2").write_text("mine")
    return {"data_dir": path}


def a_folder_for_the_file(path: Path) -> dict:
    (path / "SST-2" / "train.tsv").mkdir(parents=True)
    write_set(path, "SST-2", "dev", GOOD_FILES["SST-2"])
    return {"data_dir": path}


def without_a_dev_file(path: Path) -> dict:
    write_set(path, "SST-2", "train", GOOD_FILES["SST-2"])
    return {"data_dir": path}


def of_an_earlier_run(path: Path) -> dict:
    path.mkdir()
    (path / "results.json").write_text("{}")
    return {"output_dir": path}


BAD_FOLDERS = {
    in_the_way: "--output_dir .*given: the file given is in the way",
    below_a_file: "--output_dir .*given/out: the file given is in the way",
    of_an_earlier_run: r"--output_dir .*given: it has results already \(results\.json\)",
    a_file_for_the_data: "--data_dir .*given: no such folder; .*python -m data.download SST-2",
    a_file_for_the_task: r"--data_dir .*given: it has no folder SST-2 \(in upper or lower case\); .*data.download",
    a_folder_for_the_file: r".*train\.tsv: no such file \(looked for train\.tsv in .*SST-2\)",
    without_a_dev_file: r".*dev\.tsv: no such file \(looked for dev\.tsv in .*SST-2\)",
    lambda path: {"data_dir": "absent"}: "--data_dir absent: no such folder; .*python -m data.download SST-2",
    lambda path: {"output_dir": "x" * 300}: r".*File name too long",
}


@pytest.mark.parametrize("make", BAD_FOLDERS, ids=range(len(BAD_FOLDERS)))
def test_bad_folders(make, data_dir, encoder_folder, tmp_path, refused):
    settings = {"data_dir": data_dir, "load_model_path": encoder_folder} | make(tmp_path / "given")
    assert re.match(BAD_FOLDERS[make], refused("SST-2", TRAIN, EVAL, **settings))


@pytest.mark.parametrize("flag", ["output_dir", "data_dir", "data file"])
def test_what_may_not_be_read_or_written(flag, data_dir, encoder_folder, tmp_path, refused, monkeypatch):
    """The system's refusal comes from here, since permissions are nothing to root."""
    shutil.copytree(data_dir, tmp_path / "data")
    denied = {
        "output_dir": tmp_path / "out",
        "data_dir": tmp_path / "data",
        "data file": tmp_path / "data" / "SST-2" / "train.tsv",
    }[flag]
    settings = {"data_dir": tmp_path / "data", "load_model_path": encoder_folder}

    def refuse(function, writes: bool):
        @functools.wraps(function)
        def wrapped(path, *args, **kwargs):
            writing = not writes or any(letter in str(mode) for mode in (args[:1], kwargs) for letter in "wax")
            if writing and isinstance(path, str | os.PathLike) and Path(path) in (denied, *denied.glob("*")):
                raise PermissionError(13, "Permission denied", str(path))
            return function(path, *args, **kwargs)

        return wrapped

    monkeypatch.setattr("os.access", lambda path, mode: Path(path) != denied)
    if flag != "output_dir":
        monkeypatch.setattr("os.listdir", refuse(os.listdir, False))
        monkeypatch.setattr("builtins.open", refuse(open, False))
    said = refused("SST-2", TRAIN, **settings)
    assert re.match(rf"(--{flag} )?{re.escape(str(denied))}: cannot be (read|written) \(Permission denied", said)


@pytest.mark.skipif(os.geteuid() == 0, reason="permissions are nothing to root")
def test_a_folder_without_permission(data_dir, encoder_folder, tmp_path, refused):
    (tmp_path / "locked").mkdir(mode=0o500)
    settings = {"data_dir": data_dir, "load_model_path": encoder_folder, "output_dir": tmp_path / "locked" / "out"}
    assert "cannot be written (Permission denied" in refused("SST-2", TRAIN, **settings)


# --- checkpoints: functions of a path that write one there ---


class RunsCode:
    def __reduce__(self):
        return os.mkdir, ("was_here",)


def saved(content, suffix: str = ".bin"):
    def make(path: Path) -> Path:
        path = path.with_suffix(suffix)
        (save_file if suffix == ".safetensors" else torch.save)(content, path)
        return path

    return make


def written(content: bytes, suffix: str = ".bin"):
    def make(path: Path) -> Path:
        path.with_suffix(suffix).write_bytes(content)
        return path.with_suffix(suffix)

    return make


def state(**changes) -> dict[str, torch.Tensor]:
    """A checkpoint of the encoder of these tests, with changes to its configuration."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 129, "max_position_embeddings": 64, "num_hidden_layers": 2, "num_labels": 2}
    return release_state_dict(AsaModel(tiny_backbone(dtype=torch.float32, **sizes | changes)))


def cut(content, share: float, suffix: str = ".bin"):
    def make(path: Path) -> Path:
        path = saved(content, suffix)(path)
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
        return path

    return make


def safetensors(header: dict | str, length: int | None = None, data: bytes = bytes(8)):
    text = (header if isinstance(header, str) else json.dumps(header)).encode()
    return written((len(text) if length is None else length).to_bytes(8, "little") + text + data, ".safetensors")


def folder_of(model_type: str = "bert", **changes):
    def make(path: Path) -> Path:
        tiny_backbone(model_type, dtype=torch.float32, **changes).save_pretrained(path)
        return path

    return make


def one(name: str, tensor: torch.Tensor):
    """A checkpoint that is right but for one weight."""
    return lambda path: saved(state() | {name: tensor})(path)


def run_with_best(path: Path) -> None:
    """A folder that has the model in best/."""
    (path / "best").mkdir(parents=True)
    (path / "best" / "config.json").write_text("{}")


UNREADABLE = "not a readable checkpoint, it may be cut short"
CODE = "not a plain state dict: it holds Python objects, which are never loaded"
BIAS = "classifier.bias"
BAD_CHECKPOINTS = [
    (written(b""), UNREADABLE),
    (written(b"this is not a checkpoint"), "not a checkpoint: it is neither a file of torch.save nor named"),
    (written(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"), "a Git LFS pointer"),
    (cut({"a": torch.ones(9)}, 0.5), UNREADABLE),
    (cut({"a": torch.ones(999)}, 0.97), UNREADABLE),
    (saved({"weights": RunsCode()}), CODE),
    (saved(RunsCode()), CODE),
    (written(pickle.dumps(RunsCode()), ".pkl"), CODE),
    (written(pickle.dumps({"a": 1}, protocol=0)), "not a"),
    (saved([torch.ones(1)]), "not a state dict: names with tensors are expected"),
    (saved({"weight": 1}), "not a state dict: names with tensors are expected"),
    (saved({0: torch.ones(1)}), "not a state dict: names with tensors are expected"),
    (saved({}), "a checkpoint of another model: it has no bert"),
    (saved({BIAS: torch.ones(2)}), r"a checkpoint of another model: it has no bert.* \(\d+ weights missing, 0 not"),
    (lambda path: saved(state(num_labels=3))(path), r"a checkpoint of another shape: classifier.weight is \(3, 24\)"),
    (lambda path: saved(state(num_hidden_layers=3))(path), "a checkpoint of another model: the model has no bert"),
    (lambda path: saved(state(vocab_size=99))(path), "a checkpoint of another shape: bert.embeddings.word"),
    (one(BIAS, torch.tensor([1.0, float("nan")])), "classifier.bias is not finite: the run that saved it diverged"),
    (one(BIAS, torch.ones(2, dtype=torch.complex64)), "classifier.bias holds complex64, not real numbers"),
    (one(BIAS, torch.ones(2).to_sparse()), "classifier.bias is not a dense tensor"),
    (written(b"", ".safetensors"), UNREADABLE),
    (cut({"a": torch.ones(99)}, 0.9, ".safetensors"), UNREADABLE),
    (safetensors("{}", length=2**63 - 1), UNREADABLE),
    (safetensors("{}", length=10**6), UNREADABLE),
    (safetensors("[" * 1000), UNREADABLE),
    (safetensors({"a": {"dtype": "F32", "shape": [10**12], "data_offsets": [0, 8]}}), UNREADABLE),
    (safetensors({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 10**9]}}), UNREADABLE),
    (safetensors({"a": {"dtype": "F99", "shape": [2], "data_offsets": [0, 8]}}), UNREADABLE),
    (Path.mkdir, "a folder without a config.json, so it has no model"),
    (run_with_best, "a folder without a config.json, so it has no model: give .*given/best"),
    (folder_of(num_labels=3), "it has 3 labels, the task 2"),
    (folder_of("roberta", num_labels=2), "a roberta model, but --load_model_path is bert"),
    (lambda path: shutil.copytree(ENCODER[0], path), "not a model fine-tuned for such a task"),
]
ENCODER = []  # the folder of the session's encoder


@pytest.mark.parametrize(("make", "expected"), BAD_CHECKPOINTS, ids=range(len(BAD_CHECKPOINTS)))
def test_bad_checkpoints(make, expected, data_dir, encoder_folder, tmp_path, refused):
    ENCODER[:] = [encoder_folder]
    path = make(tmp_path / "given") or tmp_path / "given"
    said = refused("SST-2", EVAL, data_dir=data_dir, load_model_path=encoder_folder, test_model_file=path)
    assert re.match(f"(--test_model_file )?{re.escape(str(path))}: .*{expected}", said)
    assert not (tmp_path / "was_here").exists()


# --- encoders: functions of a path that make a folder there ---


def encoder(config: dict | None = None, without: tuple[str, ...] = (), **contents: bytes):
    """A folder with a good encoder, but for changes to its config.json, files that go, and files of another content."""

    def make(path: Path) -> None:
        save_tiny_encoder(path)
        if config:
            known = json.loads((path / "config.json").read_text())
            (path / "config.json").write_text(json.dumps(known | config))
        for name in without:
            (path / name).unlink()
        for name, content in contents.items():
            (path / name.replace("__", ".")).write_bytes(content)

    return make


def with_cut_weights(path: Path) -> None:
    save_tiny_encoder(path)
    weights = path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:2000])


def with_weights_that_are_no_numbers(path: Path) -> None:
    save_tiny_encoder(path)
    weights = load_file(path / "model.safetensors")
    save_file(
        {name: tensor * math.nan for name, tensor in weights.items()}, path / "model.safetensors", {"format": "pt"}
    )


def without_a_length(path: Path) -> None:
    save_tiny_encoder(path)
    settings = json.loads((path / "tokenizer_config.json").read_text())
    del settings["model_max_length"]
    (path / "tokenizer_config.json").write_text(json.dumps(settings))


TOKENIZER = ("tokenizer.json", "tokenizer_config.json")
NO_CONFIG = "not a folder with a config.json of a known model, not an installed encoder package or a fetched encoder"
UNKNOWN = r"its config.json describes no model that transformers knows \("
BAD_ENCODERS = [
    (Path.mkdir, "a folder without a config.json, so it has no model"),
    (encoder(without=("config.json",)), "a folder without a config.json, so it has no model"),
    (encoder(config__json=b""), UNKNOWN),
    (encoder(config__json=b"\xff\xfe{"), UNKNOWN),
    (encoder(config__json=b"[]"), UNKNOWN),
    (encoder(config__json=b"{}"), UNKNOWN),
    (encoder({"model_type": "unheard-of"}), UNKNOWN),
    (encoder({"model_type": "gpt2"}), "model type 'gpt2' is not supported; use one of albert, bert"),
    (encoder({"vocab_size": 50}), "its tokenizer has 129 tokens, its encoder 50"),
    (encoder({"vocab_size": "many"}), f"{UNKNOWN}.*vocab_size"),
    (encoder({"pad_token_id": 9999}), r"its weights cannot be loaded \(Padding_idx"),
    (encoder({"num_attention_heads": 5}), "its weights cannot be loaded"),
    (encoder({"num_hidden_layers": 3}), "not the weights of the whole encoder: bert.encoder.layer.2"),
    (encoder({"hidden_size": 48}), "not the weights of the whole encoder: "),
    (encoder(without=TOKENIZER), "its tokenizer cannot be loaded"),
    (encoder(tokenizer__json=b"{}"), "its tokenizer cannot be loaded"),
    (encoder(tokenizer__json=b"\0"), "its tokenizer cannot be loaded"),
    (encoder(without=("model.safetensors",)), "its weights cannot be loaded"),
    (encoder(model__safetensors=b""), "its weights cannot be loaded"),
    (with_cut_weights, "its weights cannot be loaded"),
    (with_weights_that_are_no_numbers, "its weights are not finite: bert."),
]


@pytest.mark.parametrize(("make", "expected"), BAD_ENCODERS, ids=range(len(BAD_ENCODERS)))
def test_bad_encoders(make, expected, data_dir, tmp_path, refused):
    path = tmp_path / "given"
    make(path)
    said = refused("SST-2", TRAIN, data_dir=data_dir, load_model_path=path)
    assert re.match(f"--load_model_path {re.escape(str(path))}: {expected}", said)


def test_an_encoder_that_cannot_be_had(data_dir, refused):
    said = refused("SST-2", TRAIN, data_dir=data_dir, load_model_path="no-such-encoder")
    known = ", ".join(PACKAGES)
    assert said.startswith(f"--load_model_path no-such-encoder: {NO_CONFIG} ({known}), and not available on")
    said = refused("SST-2", TRAIN, data_dir=data_dir, load_model_path="all-MiniLM-L6-v3")
    assert said.endswith("; did you mean all-MiniLM-L6-v2?")


def test_positions_bound_the_length_where_the_tokenizer_names_none(data_dir, tmp_path, refused):
    without_a_length(tmp_path / "given")
    settings = {"data_dir": data_dir, "load_model_path": tmp_path / "given", "max_seq_length": 65}
    assert refused("SST-2", TRAIN, **settings) == "--max_seq_length 65: this encoder takes 3 to 64 tokens"


# --- real processes ---

HERE = ["--data_dir", "absent", "--output_dir", "out"]
PROCESSES = [
    ("run_sent_clas.py", ["--task_name", "SST-2", TRAIN, *HERE], "--data_dir absent: no such folder"),
    ("run_multi_cho.py", ["--task_name", "DREAM", TRAIN, "--tau", "x"], "argument --tau: 'x' is not a number from 0"),
    ("run_tok_clas.py", ["--task_name", "WNUT", TRAIN], "--task_name WNUT: no such task; did you mean WNUT-2017?"),
    ("reproduce.py", ["report", "absent"], "absent: no such folder"),
    ("-m data.download", ["SST2"], "SST2: no such task; did you mean SST-2?"),
    ("-m data.download", ["SST-2", "--data-dir", "x"], "unrecognized arguments: --data-dir"),
    ("-m models.fetch", ["all-mpnet"], "argument NAME: invalid choice: 'all-mpnet'"),
    ("-m benchmarks.adversary", ["--steps", "-1"], "argument --steps: '-1' is not a whole number from 0"),
    ("-m benchmarks.budget_variants", ["--budget", "2"], "argument --budget: '2' is not a number above 0, up to 1"),
    ("-m benchmarks.adversary", ["--seeds", ""], "argument --seeds: '' is not a list of whole numbers from 0"),
    ("-m figures.attention_maps", ["--task_name", "SST-2"], "the following arguments are required: --model_file"),
]
PROGRAMS = (
    *("run_sent_clas", "run_multi_cho", "run_tok_clas", "run_mlm", "reproduce", "demo", "data.download"),
    *("models.fetch", "figures.adversary", "figures.attention_maps", "figures.differences"),
    *("figures.training_curves", "benchmarks.adversary", "benchmarks.kill_resume", "benchmarks.noise"),
    *("benchmarks.protocols", "benchmarks.throughput", "benchmarks.pretraining", "benchmarks.scale"),
    *("benchmarks.budget_variants", "data.corpus"),
)
# Each program in turn with --help; the first one that imports what takes seconds ends it.
HELP = """
import contextlib, io, runpy, sys
for name in sys.argv[1:]:
    sys.argv = [name, "--help"]
    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()) as printed:
        runpy.run_module(name, run_name="__main__")
    heavy = {"accelerate", "datasets", "matplotlib", "scipy", "sklearn", "torch", "transformers"} & sys.modules.keys()
    if heavy or not printed.getvalue().startswith("usage: "):
        sys.exit(f"{name}: {heavy}, {printed.getvalue()}")
"""


@pytest.mark.parametrize(("script", "flags", "expected"), PROCESSES, ids=range(len(PROCESSES)))
def test_from_the_shell(script, flags, expected, tmp_path):
    given = script.split() if script.startswith("-m") else [str(ROOT / script)]
    settings = {"capture_output": True, "text": True, "cwd": tmp_path, "env": os.environ | {"PYTHONPATH": str(ROOT)}}
    done = subprocess.run([sys.executable, *given, *flags], **settings)
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1
    assert f": error: {expected}" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_help_needs_nothing_that_takes_seconds_to_import():
    done = subprocess.run([sys.executable, "-c", HELP, *PROGRAMS], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
