"""What the tests of the scripts share: a script run in this process, and the message of an error."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from accelerate.state import AcceleratorState

import run_multi_cho
import run_sent_clas
import run_tok_clas
from data.tasks import CHOICE_TASKS, SENTENCE_TASKS, TOKEN_TASKS
from utils import InputError, run_script

SCRIPTS = {
    **dict.fromkeys(SENTENCE_TASKS, run_sent_clas),
    **dict.fromkeys(CHOICE_TASKS, run_multi_cho),
    **dict.fromkeys(TOKEN_TASKS, run_tok_clas),
}

# A folder with the official files of the tasks, for the tests that count their rows; nothing of it is kept here.
REAL_DATA = os.environ.get("ASA_DATA_DIR")
needs_real_data = pytest.mark.skipif(not REAL_DATA, reason="ASA_DATA_DIR names no folder with the official files")


def exit_status(main: Callable, *argv: str) -> int:
    """Of a script that is run in this process, as if in one of its own."""
    AcceleratorState._reset_state(reset_partial_state=True)
    try:
        run_script(lambda: main(argv))
    except SystemExit as stop:
        return stop.code
    return 0


def flags_of(settings: dict) -> list[str]:
    """A command line; a setting that is None is left out."""
    return [part for name, value in settings.items() if value is not None for part in (f"--{name}", str(value))]


def snapshot(folder: Path) -> dict[Path, bytes | None]:
    """Every path below a folder, with the bytes of the files."""
    return {path: path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob("*"))}


def run_folder(main, data_dir, encoder: str, folder, task: str, *flags: str) -> Path:
    """Run a script on tiny data in float32, without dropout, three batches of two at the most."""
    sizes = ["--max_seq_length", "40", "--train_batch_size", "2", "--eval_batch_size", "3", "--learning_rate", "1e-3"]
    places = ["--data_dir", str(data_dir), "--load_model_path", encoder, "--output_dir", str(folder)]
    main(["--task_name", task, *places, *sizes, "--num_train_epochs", "1", "--no_cuda", *flags])
    return Path(folder)


def results_of(folder: Path) -> dict:
    return json.loads((folder / "results.json").read_text())


def check_saved_checkpoint(main, data_dir, encoder: str, trained: Path, folder: Path, task: str) -> None:
    """The scores of an epoch come out again from its state dict, and from the stock folder."""
    epoch = results_of(trained)["best"]
    for number, saved in enumerate((trained / "0_pytorch_model.bin", trained / "best")):
        flags = ("--do_eval", "--test_model_file", str(saved))
        again = run_folder(main, data_dir, encoder, folder / str(number), task, *flags)
        scores = json.loads((again / "evaluation.json").read_text())
        assert scores["metrics"] == epoch["metrics"]
        assert scores["eval_loss"] == pytest.approx(epoch["eval_loss"], rel=1e-5)


def message(function, *arguments) -> str:
    """The one sentence of the `InputError` that the call raises."""
    with pytest.raises(InputError) as error:
        function(*arguments)
    assert "\n" not in str(error.value)
    return str(error.value)
