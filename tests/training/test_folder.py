"""The folder of a run: nothing in it is lost, and what a run needs is not removed by it."""

import json
import os
import shutil
from pathlib import Path

import pytest
from conftest import save_tiny_encoder
from script_runs import exit_status, flags_of, message, results_of, snapshot
from test_data import write
from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING_NAMES, tokenizer_class_from_name

import run_sent_clas
from data.tasks import SENTENCE_TASKS
from models.encoder_types import ENCODER_TYPES
from training.folder import EXPORTED, RunFolder

TASK = SENTENCE_TASKS["SST-2"]
TRAIN = ("--do_train", "--do_eval", "--do_test")
OVERWRITE = "--overwrite_output_dir"


@pytest.fixture
def given(tmp_path) -> Path:
    """A folder with an encoder and small sets of SST-2."""
    save_tiny_encoder(tmp_path / "encoder")
    rows = ("a warm film\t1", "a dull plot and a weak score\t0")
    for split in ("train", "dev"):
        write(tmp_path / "data" / "SST-2" / f"{split}.tsv", "sentence\tlabel", *rows)
    write(tmp_path / "data" / "SST-2" / "test.tsv", "index\tsentence", "0\ta film")
    return tmp_path


@pytest.fixture
def command(given):
    """command(flags, settings) -> exit status of a run of one step, in the folder `out`."""

    def run(*flags: str, **changes) -> int:
        settings = {
            "task_name": "SST-2",
            "method": "naive",
            "data_dir": given / "data",
            "load_model_path": given / "encoder",
            "output_dir": given / "out",
            "max_seq_length": 16,
            "train_batch_size": 2,
            "max_train_steps": 1,
            **changes,
        }
        return exit_status(run_sent_clas.main, *flags_of(settings), "--no_cuda", *flags)

    return run


def said(capsys) -> str:
    """The sentence with which the last run ended."""
    err = capsys.readouterr().err
    assert "Traceback" not in err
    return err.splitlines()[-1].partition(": error: ")[2]


# --- nothing is lost ---


def test_a_training_removes_no_evaluation_and_no_other_tool_s_files(command, given, capsys):
    """An evaluation and predictions stand in the folder, and a tensorboard/ of another tool."""
    out = given / "out"
    assert command("--do_train", output_dir=given / "model") == 0
    others = [write(out / "tensorboard" / name, "mine") for name in ("events.of.another", "events.out.tfevents.1.x")]
    others += [write(out / name, "mine") for name in ("notes.txt", "predictions/mine.csv", "states/ohio", "log.txt")]
    saved = given / "model" / "0_pytorch_model.bin"
    assert command("--do_eval", "--do_test", test_model_file=saved) == 0
    before = snapshot(out)
    capsys.readouterr()
    assert command(*TRAIN) == 2
    assert said(capsys).startswith(f"--output_dir {out}: it has results already (SST-2.tsv): give another folder, or")
    (out / "SST-2.tsv").unlink()
    assert command("--do_train") == 2
    assert said(capsys).startswith(f"--output_dir {out}: it has results already (evaluation.json): give another folder")
    assert snapshot(out) == {path: content for path, content in before.items() if path.name != "SST-2.tsv"}
    for _ in range(2):  # also with what a training has left
        assert command("--do_train", "--report_to=tensorboard", OVERWRITE) == 0
        assert not (out / "evaluation.json").exists()
        assert [path.read_text() for path in others] == ["mine\n"] * len(others)
        assert len(list((out / "tensorboard").iterdir())) == 3  # ours is replaced


def test_the_list_of_what_a_training_replaces(given):
    """Whatever a run writes, also half written; and nothing else."""
    out = given / "out"
    ours = [
        "results.json",
        "eval_results.txt",
        "metrics.jsonl",
        "trackers.json",
        "best/config.json",
        "12_pytorch_model.bin",
        "SST-2.tsv",
    ]
    ours += ["evaluation.json", "predictions/dev.parquet", "states/00000003/progress.json"]
    ours += [".results.json.tmp", ".best.old/config.json", ".3_pytorch_model.bin.tmp", "states/.00000004.tmp/model"]
    ours += ["states/00000003-evaluated/SHA256SUMS", "tensorboard/events.out.tfevents.1.host.2.0.asa"]
    ours += [
        "MNLI-m.tsv",
        "on-x/evaluation.json",
        "on-x/predictions/x.parquet",
        "on-x/RTE.tsv",
        "moved/evaluation.json",
    ]
    theirs = ["notes.txt", "log.txt", "12_pytorch_model.bin.bak", "my_1_pytorch_model.bin", "1st_pytorch_model.bin"]
    theirs += ["config.json", "model.safetensors", "predictions/dev.csv", "states/2020-notes/x", "states/7", "RTE.tsv"]
    theirs += ["tensorboard/events.out.tfevents.1.host.2.0", "tensorboard/hparams.yml", "on-x/log.txt", ".hidden.tmp"]
    theirs += ["elsewhere/evaluation.json", "broken/evaluation.json", "best2/config.json", "results.json.bak"]
    for name in (*ours, *theirs):
        write(out / name, "x")
    record = {"task_name": "MNLI", "do_test": True}
    write(out / "results.json", json.dumps({"args": record}))
    for name, task, checkpoint in (
        ("on-x", "RTE", out / "0_pytorch_model.bin"),  # of an earlier run here; it is gone
        ("moved", "of another script", "runs/moved/best"),
        ("elsewhere", "RTE", given / "encoder"),
    ):
        args = {"task_name": task, "test_model_file": str(checkpoint), "do_test": True}
        write(out / name / "evaluation.json", json.dumps({"args": args}))
    folder = RunFolder(out)
    args = argparse_of("--do_train", output_dir=out)
    found = folder.replaced(args, TASK)
    files = {path for path in out.rglob("*") if path.is_file()}
    covered = {file for file in files if any(path == file or path in file.parents for path in found)}
    assert {str(file.relative_to(out)) for file in covered} == set(ours)
    # And that is what goes.
    args.overwrite_output_dir = True
    folder.open(args, TASK)
    folder.close()
    assert {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()} == set(theirs)
    assert not (out / "moved").exists()  # it held nothing else


def argparse_of(*flags: str, **settings):
    from training import arguments

    return arguments.of_script("run_sent_clas", [*flags_of({"task_name": "SST-2"} | settings), *flags])


@pytest.mark.parametrize(
    "name",
    [
        *("best/config.json", ".best.old/config.json", "3_pytorch_model.bin", "states/00000001/x", "metrics.jsonl"),
        *("evaluation.json", "SST-2.tsv", "predictions/dev.parquet", "tensorboard/events.out.tfevents.1.host.2.0.asa"),
    ],
)
def test_anything_on_the_list_makes_a_training_refuse(name, given):
    write(given / "out" / name, "x")
    first = name.rpartition("/")[0] if name.startswith((".", "best", "states")) else name
    args = argparse_of("--do_train", output_dir=given / "out")
    said = message(RunFolder(given / "out").check, args, TASK)
    assert said.startswith(f"--output_dir {given}/out: it has results already ({first}): give another folder, ")
    write(given / "out2" / f".{Path(name).name}.tmp", "x")  # never finished: no result
    RunFolder(given / "out2").check(args, TASK)


def test_an_evaluation_stands_beside_the_training_that_it_is_of(command, given, capsys):
    """It replaces an earlier evaluation alone, where it may."""
    out = given / "out"
    assert command(*TRAIN) == 0
    write(out / "predictions" / "dev.parquet", "of the training")
    before = snapshot(out)
    assert command("--do_eval", test_model_file=out / "best") == 0
    assert snapshot(out).items() >= before.items()
    assert command("--do_eval", test_model_file=out / "best") == 2
    assert "it has results already (evaluation.json)" in said(capsys)
    assert command("--do_eval", OVERWRITE, test_model_file=out / "0_pytorch_model.bin", eval_batch_size=3) == 0
    assert json.loads((out / "evaluation.json").read_text())["args"]["eval_batch_size"] == 3
    assert snapshot(out).items() >= before.items()


def test_a_file_of_one_s_own_in_best_is_not_removed(command, given, capsys):
    """Nor is it where a run goes on, which may write best/ again."""
    assert command("--do_train") == 0
    notes = write(given / "out" / "best" / "notes.txt", "mine")
    before = snapshot(given / "out")
    for flag in (OVERWRITE, "--resume"):
        assert command("--do_train", flag) == 2
        assert said(capsys) == (
            f"--output_dir {given}/out: {notes} is not a file that a run writes, and would be removed with best/:"
            " move it away"
        )
    assert snapshot(given / "out") == before
    assert command("--do_eval", OVERWRITE, test_model_file=given / "out" / "best") == 0  # which leaves best/ as it is


def test_the_folders_that_a_run_replaces_are_no_output_folders(given):
    for name in ("results.json", "best/config.json"):
        write(given / "run" / name, "{}")
    for name in ("best", "states", "predictions/mine"):
        args = argparse_of("--do_eval", output_dir=given / "run" / name, test_model_file=given / "run")
        said = message(RunFolder(given / "run" / name).check, args, TASK)
        part = name.partition("/")[0]
        assert said.startswith(f"--output_dir {given}/run/{name}: {part}/ is of the run in {given}/run, which may rep")
    args = argparse_of("--do_eval", output_dir=given / "other" / "best", test_model_file=given / "run")
    RunFolder(given / "other" / "best").check(args, TASK)


def test_a_name_that_is_not_utf_8_is_refused(given):
    name = given / os.fsdecode(b"q\xff")
    said = message(RunFolder(name).check, argparse_of("--do_train", output_dir=name), TASK)
    assert said.endswith("the name is not valid UTF-8: give another")


def test_a_run_that_another_process_has_finished_is_left_as_it_is(given):
    """It was unfinished when this process began, which takes the lock only after it has loaded the encoder."""
    args = argparse_of("--do_train", "--resume", output_dir=given / "out")
    record = {"args": json.loads(json.dumps(vars(args))), "epochs": [], "finished": True}
    write(given / "out" / "results.json", json.dumps(record))
    before = snapshot(given / "out")
    folder = RunFolder(given / "out")
    assert message(folder.open, args, TASK) == f"--resume: the run in {given}/out has finished in the meantime"
    folder.close()
    assert snapshot(given / "out") == before


def test_records_of_other_programs_are_not_resumed(given):
    folder = RunFolder(given / "out")
    record = {"args": {}, "epochs": [], "precision": "fp32", "device": "cpu: x", "examples": {"train": 2}}
    for changed in ({"device": None}, {"examples": []}, {"epochs": [1]}):
        write(folder.results, json.dumps(record | changed))
        assert message(folder.check_same, record) == f"{folder.results}: not the results file of a run"
    write(folder.results, json.dumps(record))
    folder.check_same(record)
    folder.metrics.write_bytes(b'{"step": 7, "x": 1}\n{"step": 9, \xff\xfe')
    assert folder.told() == (9, 0)


def test_the_files_of_every_tokenizer_are_known():
    """BERTweet and PhoBERT are of the types bert or roberta, whose own tokenizers are others."""
    names = {TOKENIZER_MAPPING_NAMES[each] for each in ENCODER_TYPES.keys() & TOKENIZER_MAPPING_NAMES.keys()}
    of_class = [tokenizer_class_from_name(name) for name in names - {None} | {"BertweetTokenizer", "PhobertTokenizer"}]
    files = {file for each in of_class for file in each.vocab_files_names.values()}
    assert {"vocab.txt", "bpe.codes", "word_shape.json"} <= files
    assert [file for file in sorted(files) if not EXPORTED.fullmatch(file)] == []


@pytest.mark.parametrize("name", ["states", "predictions", "tensorboard"])
def test_a_file_in_the_place_of_a_folder(name, command, given, capsys):
    write(given / "out" / name, "mine")
    assert command("--do_train") == 2
    assert said(capsys) == f"--output_dir {given}/out: the file {name} is in the way"


def test_an_encoder_at_the_top_of_the_folder_stays_there(command, given):
    """A run removes nothing of it: it has another name for each of its own files."""
    shutil.copytree(given / "encoder", given / "out")
    before = snapshot(given / "out")
    for flags in ((), (OVERWRITE,)):
        assert command("--do_train", *flags, load_model_path=given / "out") == 0
        assert snapshot(given / "out").items() >= before.items()


def test_states_of_other_names_are_left_alone(command, given):
    """Neither the limit on states nor the end of a run removes them."""
    other = write(given / "out" / "states" / "0-notes" / "x", "mine")
    assert command("--do_train", num_train_epochs=3, max_train_steps=None) == 0
    assert other.read_text() == "mine\n"
    assert [path.name for path in (given / "out" / "states").iterdir()] == ["0-notes"]


# --- what a run needs is not removed ---


def of_best(given: Path) -> dict:
    return {"load_model_path": given / "out" / "best"}


def of_a_link(given: Path) -> dict:
    (given / "link").symlink_to(given / "out" / "best")
    return {"load_model_path": given / "link"}


def of_linked_files(given: Path) -> dict:
    (given / "linked").mkdir()
    for path in (given / "out" / "best").iterdir():
        (given / "linked" / path.name).symlink_to(path)
    return {"load_model_path": given / "linked"}


def of_a_linked_output(given: Path) -> dict:
    (given / "other_name").symlink_to(given / "out")
    return {"load_model_path": given / "out" / "best", "output_dir": given / "other_name"}


def of_data(given: Path) -> dict:
    shutil.copytree(given / "data", given / "out" / "best" / "data")
    return {"data_dir": given / "out" / "best" / "data"}


def of_linked_data(given: Path) -> dict:
    train = given / "data" / "SST-2" / "train.tsv"
    target = given / "out" / "best" / "vocab.tsv"
    train.rename(target)
    train.symlink_to(target)
    return {}


def of_token_cache(given: Path) -> dict:
    return {"token_cache_dir": given / "out" / "states" / "00000001" / "cache"}


def of_cache(given: Path) -> dict:
    return {"cache_dir": given / "out" / "best" / "hub"}


@pytest.mark.parametrize(
    ("make", "flag"),
    [
        (of_best, "--load_model_path {given}/out/best"),
        (of_a_link, "--load_model_path {given}/link"),
        (of_linked_files, "--load_model_path {given}/linked"),
        (of_a_linked_output, "--load_model_path {given}/out/best"),
        (of_data, "--data_dir {given}/out/best/data"),
        (of_linked_data, "--data_dir {given}/data: {given}/data/SST-2/train.tsv"),
        (of_token_cache, "--token_cache_dir {given}/out/states/00000001/cache"),
        (of_cache, "--cache_dir {given}/out/best/hub"),
    ],
)
def test_what_a_training_reads_is_not_removed(make, flag, command, given, capsys):
    assert command("--do_train") == 0
    write(given / "out" / "states" / "00000001" / "progress.json", "x")
    settings = make(given)
    before = snapshot(given)
    capsys.readouterr()
    assert command("--do_train", OVERWRITE, **settings) == 2
    sentence = said(capsys)
    assert sentence.startswith(
        f"{flag.format(given=given)}: this run needs it, and --overwrite_output_dir would remove"
    )
    assert sentence.endswith(": give another --output_dir")
    assert snapshot(given) == before


def test_any_of_several_files_is_not_removed(given):
    """Of a flag that takes several."""
    own = write(given / "out" / "best" / "a.tsv", "x")
    args = argparse_of("--do_train", OVERWRITE, output_dir=given / "out")
    args.train_file = [str(given / "data" / "a.tsv"), str(own)]
    said = message(RunFolder(given / "out").check, args, TASK)
    assert said.startswith(f"--train_file {own}: this run needs it, and --overwrite_output_dir would remove")


def test_what_an_evaluation_reads_is_not_removed(command, given, capsys):
    """The predictions of an earlier evaluation, and a file of the task's set of the same name."""
    assert command("--do_train", output_dir=given / "model") == 0
    saved = {"test_model_file": given / "model" / "best"}
    own = write(given / "out" / "SST-2.tsv", "sentence\tlabel", "a film\t1")
    before = snapshot(given)
    assert command("--do_eval", "--do_test", OVERWRITE, eval_file=own, **saved) == 2
    assert said(capsys) == (
        f"--eval_file {own}: this run needs it, and --overwrite_output_dir would remove {own}:"
        " give another --output_dir"
    )
    shutil.copytree(given / "model" / "best", given / "out" / "evaluation.json")
    assert command("--do_eval", OVERWRITE, test_model_file=given / "out" / "evaluation.json") == 2
    assert said(capsys).startswith(f"--test_model_file {given}/out/evaluation.json: this run needs it")
    shutil.rmtree(given / "out" / "evaluation.json")
    assert snapshot(given) == before
    # What it does not replace, it may read.
    assert command("--do_eval", OVERWRITE, eval_file=own, **saved) == 0
    assert results_of(given / "model")["finished"]
