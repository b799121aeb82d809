"""A run that is cut off and resumed ends with the bits of one that was not."""

import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
from children import INTERRUPT, KILL, TERMINATE, run, start

import reproduce
from benchmarks.kill_resume import TASKS, WORDS, command, differences, make_data, make_encoder
from data.tasks import TASKS as TASKS_BY_NAME
from experiments import plan
from training.state import damage
from training.versions import versions


@pytest.fixture(scope="module")
def given(tmp_path_factory) -> Path:
    """Data with 11 training rows for each script, which batches of 4 leave 3 of, and an encoder with dropout."""
    folder = tmp_path_factory.mktemp("given")
    make_data(folder / "sets", 11)
    make_encoder(folder / "encoder")
    return folder


@pytest.fixture
def arguments(given):
    """arguments(script, output_dir, more flags) of a training run of 2 epochs of 3 steps, in parts of 2 rows."""

    def of(script: str, folder: Path, *flags: str) -> list[str]:
        return command(script, given, folder, "--save_steps", "1", *flags)[2:]

    return of


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """Folder of a script's run that nothing stopped; made once."""
    folders = {}

    def of(script: str, arguments) -> Path:
        if script not in folders:
            folders[script] = tmp_path_factory.mktemp(script) / "whole"
            log = folders[script].with_suffix(".log")
            assert run(script, arguments(script, folders[script]), log) == 0, log.read_text()
        return folders[script]

    return of


# Where a kill hurts: in a step, while a state is written, between its files, in an evaluation, while a checkpoint, the
# best folder or the records are written, and when all but the predictions is done. In this order each one is reached.
BLOWS = [
    ("training.loop", "optimize", 2),
    ("training.state", "save_file", 3),
    ("training.state", "save_file", 2),
    ("training.folder", "latest_good", 1),
    ("training.evaluation", "predict", 1),
    ("training.loop", "save_checkpoint", 1),
    ("utils", "_flush", 9),
    ("training.loop", "export", 1),
    ("training.folder", "write_text", 2),
    ("training.loop", "optimize", 3),
    ("training.evaluation", "predict", 1),
    ("training.loop", "write_predictions", 1),  # after the checkpoint of the second epoch, before its state
    ("training.folder", "remove_folder", 1),
    ("training.run", "predict", 1),
]


@pytest.mark.parametrize("script", TASKS)
def test_killed_again_and_again(script, arguments, uninterrupted, tmp_path):
    """The first script at every place, the others, which share all but their data, at every third."""
    blows = BLOWS if script == "run_sent_clas" else BLOWS[::3]
    expected = uninterrupted(script, arguments)
    folder, log = tmp_path / "cut", tmp_path / "log"
    for module, function, call in blows:
        resume = ["--resume"] if (folder / "results.json").exists() else []
        status = run(script, arguments(script, folder, *resume), log, (module, function, call, KILL))
        assert status == -KILL, (function, log.read_text())
    assert run(script, arguments(script, folder, "--resume"), log) == 0, log.read_text()
    assert differences(folder, expected) == []
    assert "Traceback" not in log.read_text()
    # Resumed once more, it says that there is nothing to do, and does nothing.
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert run(script, arguments(script, folder, "--resume"), log) == 0
    assert "the run has finished already" in log.read_text()
    assert before == {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


SIGNALS = [(TERMINATE, "optimize"), (INTERRUPT, "optimize"), (TERMINATE, "predict"), (-TERMINATE, "optimize")]


@pytest.mark.parametrize(("number", "place"), SIGNALS)
def test_a_signal_saves_and_says_how_to_go_on(number, place, arguments, uninterrupted, tmp_path):
    """Without --save_steps; in the second step, or in the first evaluation; also where the loader's process gets it.

    That one gets all it needs pickled, as on a system that does not fork.
    """
    script = "run_sent_clas"
    folder, log = tmp_path / "cut", tmp_path / "log"
    argv = [*arguments(script, folder), "--save_steps", "100"]
    blow = (
        ("training.loop", "optimize", 2, number)
        if place == "optimize"
        else ("training.evaluation", "predict", 1, number)
    )
    workers = ["--num_workers", "1"] if number < 0 else []
    # It comes twice, as from a scheduler that tells every process, and from the one that has started this one.
    assert run(script, [*argv, *workers], log, blow, blow) == 128 + abs(number)
    assert log.read_text().splitlines()[-1] == (
        f"{script}.py: interrupted, and its state saved: the same command with --resume goes on from there"
    )
    assert "Traceback" not in log.read_text()
    assert [path.name for path in (folder / "states").iterdir()] == ["00000002" if place == "optimize" else "00000003"]
    assert json.loads((folder / "results.json").read_text())["epochs"] == []
    assert run(script, [*argv, "--resume"], log) == 0, log.read_text()
    assert differences(folder, uninterrupted(script, arguments)) == []


def test_smart_resumed_goes_on_with_its_average_and_schedule(arguments, tmp_path):
    """Killed in the first tenth of 20 steps, just after it, and later."""
    script, flags = "run_sent_clas", ["--train_batch_size", "1", "--gradient_accumulation_steps", "1"]
    flags += ["--max_train_steps", "20", "--method", "smart", "--smart_early_momentum", "0.2"]
    whole, cut, log = tmp_path / "whole", tmp_path / "cut", tmp_path / "log"
    assert run(script, arguments(script, whole, *flags), log) == 0, log.read_text()
    for call in (2, 3, 9):
        resume = ["--resume"] if cut.exists() else []
        blow = ("training.loop", "optimize", call, KILL)
        assert run(script, arguments(script, cut, *flags, *resume), log, blow) == -KILL
    assert run(script, arguments(script, cut, *flags, "--resume"), log) == 0, log.read_text()
    assert differences(cut, whole) == []


def test_a_row_budget_resumed_goes_on_exactly(arguments, tmp_path):
    """Its adversaries have a learning rate of their own, and their liveness is logged between the other figures."""
    script, flags = "run_sent_clas", ["--method", "asa_budget", "--asa_budget", "0.3"]
    flags += ["--adversary_learning_rate", "1e-3", "--liveness_steps", "1", "--logging_steps", "2"]
    whole, cut, log = tmp_path / "whole", tmp_path / "cut", tmp_path / "log"
    assert run(script, arguments(script, whole, *flags), log) == 0, log.read_text()
    blow = ("training.loop", "optimize", 4, KILL)
    assert run(script, arguments(script, cut, *flags), log, blow) == -KILL
    assert run(script, arguments(script, cut, *flags, "--resume"), log) == 0, log.read_text()
    assert differences(cut, whole) == []
    lines = [json.loads(line) for line in (cut / "metrics.jsonl").read_text().splitlines()]
    assert [(line["step"], "train_loss" in line) for line in lines] == [(step, step % 2 == 0) for step in range(1, 7)]
    assert all(line["liveness"] > 0 for line in lines)


def test_masked_words_are_those_of_an_uninterrupted_run(given, tmp_path):
    """run_mlm.py, killed in the first epoch and in the second."""
    chance = random.Random(0)
    lines = [" ".join(chance.choices(WORDS, k=chance.randint(5, 20))) for _ in range(24)]
    for name, part in (("train", lines[:18]), ("held", lines[18:])):
        (tmp_path / f"{name}.txt").write_text("\n".join(part) + "\n")
    files = ["--train_file", str(tmp_path / "train.txt"), "--dev_file", str(tmp_path / "held.txt")]
    sizes = ["--max_seq_length", "20", "--train_batch_size", "4", "--gradient_accumulation_steps", "2", "--no_cuda"]
    argv = [*files, *sizes, "--load_model_path", str(given / "encoder"), "--num_train_epochs", "2"]
    argv += ["--save_steps", "1", "--logging_steps", "1", "--learning_rate", "1e-3", "--output_dir"]
    whole, cut, log = tmp_path / "whole", tmp_path / "cut", tmp_path / "log"
    assert run("run_mlm", [*argv, str(whole)], log) == 0, log.read_text()
    for call in (2, 5):  # the latter is in the second epoch
        resume = ["--resume"] if cut.exists() else []
        blow = ("training.loop", "optimize", call, KILL)
        assert run("run_mlm", [*argv, str(cut), *resume], log, blow) == -KILL, log.read_text()
    assert run("run_mlm", [*argv, str(cut), "--resume"], log) == 0, log.read_text()
    assert differences(cut, whole) == []


def test_states_are_limited_and_a_damaged_one_is_passed_over(arguments, uninterrupted, tmp_path):
    script = "run_sent_clas"
    folder, log = tmp_path / "cut", tmp_path / "log"
    argv = arguments(script, folder, "--save_total_limit", "3")
    assert run(script, argv, log, ("training.loop", "optimize", 6, KILL)) == -KILL
    states = sorted((folder / "states").iterdir())
    assert [state.name for state in states] == ["00000003-evaluated", "00000004", "00000005"]
    assert [damage(state) for state in states] == [None, None, None]
    spoiled = states[-1] / "model.safetensors"
    spoiled.write_bytes(spoiled.read_bytes()[:-1] + b"?")
    (states[-2] / "SHA256SUMS").unlink()
    named = tmp_path / "named"
    assert run(script, [*argv, "--resume", str(spoiled.parent)], named) == 2
    assert (
        named.read_text()
        .splitlines()[-1]
        .endswith(
            f"--resume {spoiled.parent}: a damaged state (the checksum of model.safetensors is wrong):"
            " --resume alone takes the latest good one"
        )
    )
    assert run(script, [*argv, "--resume"], log) == 0, log.read_text()
    said = log.read_text()
    assert f"{states[2]}: a damaged state (the checksum of model.safetensors is wrong): taking the state before" in said
    assert f"{states[1]}: a damaged state (SHA256SUMS is missing or not readable): taking the state before" in said
    assert f"resumed from {states[0]}" in said
    assert differences(folder, uninterrupted(script, arguments)) == []


def test_a_state_by_name(arguments, uninterrupted, tmp_path):
    script = "run_sent_clas"
    folder, log = tmp_path / "cut", tmp_path / "log"
    argv = arguments(script, folder, "--save_total_limit", "9")
    assert run(script, argv, log, ("training.loop", "optimize", 6, KILL)) == -KILL
    assert run(script, [*argv, "--resume", str(folder / "states" / "00000002")], log) == 0, log.read_text()
    assert "00000002" in log.read_text()
    assert differences(folder, uninterrupted(script, arguments)) == []


REFUSED = {
    "learning rate": (
        ["--learning_rate", "2e-3"],
        "--learning_rate 0.002: the run in {folder} began with --learning_rate",
    ),
    "method": (["--method", "naive"], "--method naive: the run in {folder} began with --method asa:"),
    "length": (
        ["--num_train_epochs", "3"],
        "--num_train_epochs 3: the run in {folder} began with --num_train_epochs",
    ),
    "precision": (["--bf16"], "--bf16: the run in {folder} began with no --bf16:"),
    "a new folder": (["--output_dir", "{folder}-2"], "--resume: there is no run in --output_dir {folder}-2:"),
    "no state": (["--resume", "{folder}"], "--resume {folder}: not a state in {folder}/states"),
    "contradiction": (["--overwrite_output_dir"], "--resume and --overwrite_output_dir exclude each other"),
}


def test_another_experiment_is_refused_by_name(arguments, given, tmp_path):
    script = "run_sent_clas"
    folder = tmp_path / "cut"
    argv = arguments(script, folder)
    assert run(script, argv, tmp_path / "log", ("training.loop", "optimize", 3, KILL)) == -KILL
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    for name, (flags, expected) in REFUSED.items():
        log = tmp_path / name
        flags = [flag.format(folder=folder) for flag in flags]
        assert run(script, [*argv, "--resume", *flags], log) == 2, name
        last = log.read_text().splitlines()[-1]
        assert last.startswith("run_sent_clas.py: error: " + expected.format(folder=folder)), last
        assert "Traceback" not in log.read_text()
    # Other data under the same name.
    other = tmp_path / "data"
    shutil.copytree(given / "sets", other)
    train = other / "sst-2" / "train.tsv"
    train.write_text(train.read_text().replace("\t1", "\t0"))
    log = tmp_path / "other data"
    assert run(script, [*argv, "--resume", "--data_dir", str(other)], log) == 2
    assert "the training data, or how it is tokenised, has changed since then" in log.read_text().splitlines()[-1]
    shutil.copy(given / "sets" / "sst-2" / "train.tsv", train)
    dev = other / "sst-2" / "dev.tsv"
    dev.write_text(dev.read_text().replace("\t1", "\t0"))
    assert run(script, [*argv, "--resume", "--data_dir", str(other)], log) == 2
    assert "the evaluated set SST-2, or how it is tokenised, has changed since then" in log.read_text().splitlines()[-1]
    # Another device or precision that the same arguments mean elsewhere.
    results = json.loads((folder / "results.json").read_text())
    (folder / "results.json").write_text(json.dumps(results | {"precision": "fp16"}))
    log = tmp_path / "other device"
    assert run(script, [*argv, "--resume"], log) == 2
    assert "--resume: the precision is fp32, and the run in" in log.read_text().splitlines()[-1]
    states = {path: path.read_bytes() for path in (folder / "states").rglob("*") if path.is_file()}
    assert states == {path: content for path, content in before.items() if "states" in path.parts}


NAMES = (
    "python",
    "torch",
    "transformers",
    "accelerate",
    "tokenizers",
    "numpy",
    "scipy",
    "scikit-learn",
    "seqeval",
    "code",
)


def saved_with(state: Path, **changes: str | None) -> None:
    """Let a state say that it was saved with other versions; with `all=None`, let it say nothing of them."""
    progress = json.loads((state / "progress.json").read_text())
    if changes == {"all": None}:
        del progress["segments"]
    else:
        progress["segments"][-1]["versions"] |= changes
    (state / "progress.json").write_text(json.dumps(progress))
    with open(state / "progress.json", "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    lines = (state / "SHA256SUMS").read_text().splitlines()[:-1]
    (state / "SHA256SUMS").write_text("\n".join([*lines, f"{digest}  progress.json", ""]))


def cut_off(folder: Path, arguments, log: Path) -> tuple[list[str], Path]:
    """The command of a run that was killed in its third step, and its last state."""
    argv = arguments("run_sent_clas", folder)
    assert run("run_sent_clas", argv, log, ("training.loop", "optimize", 3, KILL)) == -KILL
    return argv, sorted((folder / "states").iterdir())[-1]


def segments_of(folder: Path) -> list[dict]:
    return json.loads((folder / "results.json").read_text())["segments"]


def test_results_say_which_steps_were_taken_with_what(arguments, uninterrupted, tmp_path):
    now = versions()
    assert tuple(now) == NAMES
    whole = segments_of(uninterrupted("run_sent_clas", arguments))
    assert whole == [{"from_step": 0, "to_step": 6, "versions": now}]
    argv, _ = cut_off(tmp_path / "cut", arguments, tmp_path / "log")
    assert segments_of(tmp_path / "cut") == [{"from_step": 0, "to_step": 0, "versions": now}]
    assert run("run_sent_clas", [*argv, "--resume"], tmp_path / "log") == 0
    assert segments_of(tmp_path / "cut") == [
        {"from_step": 0, "to_step": 2, "versions": now},
        {"from_step": 2, "to_step": 6, "versions": now},
    ]


def test_other_code_or_libraries_are_refused_by_name(arguments, uninterrupted, tmp_path):
    """Unless it is asked for; then the results tell of both."""
    folder, log, now = tmp_path / "cut", tmp_path / "log", versions()
    if now["code"] is None:
        pytest.skip("what is not known is not compared: this code is not in a Git repository, or there is no Git")
    _, state = cut_off(folder, arguments, log)
    (folder / ".lock").unlink()  # which the killed run could not
    add = "add --resume_changed_code to go on"
    for number, (changes, expected) in enumerate(
        (
            ({"all": None}, f" does not say which code and libraries saved it, as older code did not: {add} all the"),
            (
                {"torch": "1.9", "code": "0123456789ab-dirty"},
                " was saved with torch 1.9, not {torch}, code 0123456789ab-",
            ),
            (
                {"code": "0123456789ab"},
                " was saved with code 0123456789ab, not {code}: go on with what the run began with",
            ),
        )
    ):
        copy, said = tmp_path / str(number), tmp_path / f"{number}.log"
        shutil.copytree(folder, copy)
        saved_with(copy / "states" / state.name, **changes)
        before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
        argv = [*arguments("run_sent_clas", copy), "--resume"]
        assert run("run_sent_clas", argv, said) == 2
        last = said.read_text().splitlines()[-1]
        where = f"run_sent_clas.py: error: --resume: {copy / 'states' / state.name}"
        assert last.startswith(where + expected.format(**now))
        assert add in last
        assert "Traceback" not in said.read_text()
        assert {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()} == before
        assert run("run_sent_clas", [*argv, "--resume_changed_code"], said) == 0, said.read_text()
        first = {"from_step": 0, "to_step": 2, "versions": None if "all" in changes else now | changes}
        assert segments_of(copy) == [first, {"from_step": 2, "to_step": 6, "versions": now}]
        assert differences(copy, uninterrupted("run_sent_clas", arguments)) == []


def test_what_is_not_known_is_not_compared(arguments, tmp_path):
    """As the commit, where the code is not in a Git repository."""
    argv, state = cut_off(tmp_path / "cut", arguments, tmp_path / "log")
    saved_with(state, code=None, seqeval=None)
    assert run("run_sent_clas", [*argv, "--resume"], tmp_path / "log") == 0, (tmp_path / "log").read_text()


def test_a_grid_says_which_run_it_cannot_resume_and_why(given, tmp_path, capsys):
    """And goes on with it where that is asked for, as a run of the same setting."""
    places = ["--data_dir", str(given / "sets"), "--encoder", str(given / "encoder"), "--output_dir", str(tmp_path)]
    grid = [
        "main",
        "--tasks",
        "SST-2",
        "--methods",
        "naive",
        "--seeds",
        "1",
        "--no_cuda",
        "--max_train_steps",
        "3",
        *places,
    ]
    flags = ["--max_seq_length", "40", "--train_batch_size", "4", "--save_steps", "1"]
    args, extra = reproduce.parse_arguments([*grid, "--", *flags])
    passed = [*reproduce.passed_flags(args), *extra]
    [planned] = plan.plan_runs(tmp_path, [TASKS_BY_NAME["SST-2"]], reproduce.variants_of(args), args.seeds, passed)
    argv = planned.command[2:]
    assert run("run_sent_clas", argv, tmp_path / "log", ("training.loop", "optimize", 3, KILL)) == -KILL
    saved_with(sorted((planned.folder / "states").iterdir())[-1], numpy="0.1")
    with pytest.raises(SystemExit):
        reproduce.main([*grid, "--", *flags])
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("  SST-2/naive/seed42: failed")]
    assert len(said) == 1
    assert "00000002 was saved with numpy 0.1, not " in said[0]
    assert "or add --resume_changed_code to go on with what there is now" in said[0]
    reproduce.main([*grid, "--", *flags, "--resume_changed_code"])
    assert [segment["versions"]["numpy"] for segment in segments_of(planned.folder)] == ["0.1", versions()["numpy"]]


def test_a_run_keeps_others_out_of_its_folder(arguments, uninterrupted, tmp_path):
    script = "run_sent_clas"
    folder, log, second = tmp_path / "cut", tmp_path / "log", tmp_path / "second"
    argv = arguments(script, folder)
    first = start(script, argv, log, ("training.loop", "optimize", 3, signal.SIGSTOP))
    try:
        while not (folder / "states" / "00000002").exists():
            assert first.is_alive(), log.read_text()
            first.join(0.05)
        assert run(script, [*argv, "--resume"], second) == 2
        said = second.read_text().splitlines()[-1]
        assert said == (
            f"run_sent_clas.py: error: --output_dir {folder}: another run is at work in it:"
            " wait for its end, or give another folder"
        )
        while first.is_alive():  # it may not have come to its stop yet
            with contextlib.suppress(ProcessLookupError):  # it has just ended
                os.kill(first.pid, signal.SIGCONT)
            first.join(0.05)
        assert first.exitcode == 0, log.read_text()
    finally:
        first.kill()
        first.join()
    assert differences(folder, uninterrupted(script, arguments)) == []


def check_full_disk(script: str, argv: list[str], folder: Path, log: Path, reason: str, **limits: int) -> None:
    assert run(script, argv, log, **limits) == 2, log.read_text()
    said = log.read_text().splitlines()[-1]
    assert said.startswith(f"{script}.py: error: {folder}/")
    assert "cannot be written (" in said
    assert reason in said
    assert "Traceback" not in log.read_text()


def test_a_full_disk_leaves_the_last_state(arguments, uninterrupted, tmp_path):
    """A limit on the size of a file, which a model just fits in, and the optimizer's two moments do not."""
    script = "run_sent_clas"
    folder, log = tmp_path / "cut", tmp_path / "log"
    argv = arguments(script, folder)
    assert run(script, argv, log, ("training.loop", "optimize", 3, KILL)) == -KILL
    states = folder / "states"
    last = sorted(states.iterdir())[-1]
    size = (last / "optimizer.safetensors").stat().st_size
    check_full_disk(script, [*argv, "--resume"], folder, log, "File too large", RLIMIT_FSIZE=size - 1)
    assert f"; the last good state is {last}: --resume goes on from it" in log.read_text()
    assert damage(last) is None
    assert run(script, [*argv, "--resume"], log) == 0, log.read_text()
    assert differences(folder, uninterrupted(script, arguments)) == []


def test_a_full_file_system_leaves_the_last_state(arguments, uninterrupted, tmp_path):
    script = "run_sent_clas"
    disk, log = tmp_path / "disk", tmp_path / "log"
    disk.mkdir()
    whole = sum(path.stat().st_size for path in uninterrupted(script, arguments).rglob("*"))
    mount = ["mount", "-t", "tmpfs", "-o", f"size={int(1.2 * whole)}", "tmpfs", str(disk)]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only root can mount a small file system")
    try:
        argv = arguments(script, disk / "cut")
        check_full_disk(script, argv, disk / "cut", log, "No space left on device")
        assert "the last good state is" in log.read_text()
        grow = ["mount", "-o", f"remount,size={20 * whole}", str(disk)]
        subprocess.run(grow, check=True)
        assert run(script, [*argv, "--resume"], log) == 0, log.read_text()
        assert differences(disk / "cut", uninterrupted(script, arguments)) == []
    finally:
        subprocess.run(["umount", str(disk)], check=True)
