"""What a resumed run asks of its folder and its data before it goes on, seen within one process."""

import hashlib
import json
from pathlib import Path

import pytest
import torch
from conftest import tiny_backbone
from script_runs import message
from test_training import features, make_run

from training import loop
from training.loop import train


def cut_in_the_second_epoch(folder: Path):
    """A run of one step an epoch that was stopped before its second one."""
    run = make_run(folder, tiny_backbone(dtype=torch.float32))
    steps = iter([loop.optimize])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "optimize", lambda *given: next(steps)(*given))
        with pytest.raises(StopIteration):
            train(run, features(8), {"dev": features(5)}, {"args": {}})
    return run


def test_a_run_without_the_weights_of_its_best_epoch_is_not_resumed(tmp_path):
    """They are needed at its end at the latest."""
    run = cut_in_the_second_epoch(tmp_path / "run")
    weights = run.folder.checkpoint(0)
    weights.unlink()
    again = make_run(tmp_path / "run", run.model, resume="latest", resume_changed_code=False)
    said = message(train, again, features(8), {"dev": features(5)}, {"args": {}})
    assert said.startswith(f"--resume: {weights}, the weights of the best epoch so far, is missing: put it back, or")


def test_other_rows_of_the_same_lengths_and_labels_are_refused(tmp_path):
    run = cut_in_the_second_epoch(tmp_path / "run")
    again = make_run(tmp_path / "run", run.model, resume="latest", resume_changed_code=False)
    other = features(8)
    other.columns["input_ids"][3] = other.columns["input_ids"][3][::-1]
    said = message(train, again, other, {"dev": features(5)}, {"args": {}})
    assert said.endswith(
        "00000001-evaluated: the training data, or how it is tokenised, has changed since then: restore it"
    )
    # States of older code know no tokens.
    progress = run.folder.saved_states()[-1] / "progress.json"
    state = json.loads(progress.read_text())
    state["data"] = {name: identity.partition(":")[0] for name, identity in state["data"].items()}
    progress.write_text(json.dumps(state))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("training.state.damage", lambda _: None)
        train(again, features(8), {"dev": features(5)}, {"args": {}})
    assert len(json.loads(run.folder.results.read_text())["epochs"]) == 3


def test_a_run_that_begins_again_has_the_weights_that_it_begins_with(tmp_path):
    """Without a state, a resumed run does not have the encoder that it was first given."""
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    model = tiny_backbone(dtype=torch.float32)
    run = make_run(tmp_path / "run", model, resume="latest", load_model_path=str(tmp_path), num_train_epochs=1)
    train(run, features(8), {}, {"encoder_sha256": "of another"})
    found = json.loads(run.folder.results.read_text())["encoder_sha256"]
    assert found == hashlib.sha256(b"weights").hexdigest()
