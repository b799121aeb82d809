"""Experiment trackers, each for real: what a run tells it is read back out of its own store."""

import json
import sqlite3
import struct
from collections.abc import Iterator
from importlib.util import find_spec

import pytest
import torch
from accelerate.utils import LoggerType
from conftest import tiny_backbone
from script_runs import message
from test_training import features, make_run, metrics_of

from training import arguments, loop, trackers
from training.trackers import PROJECT, Trackers

Curve = list[tuple[int, float]]


def read_tensorboard(folder, name: str) -> Curve:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "run" / "tensorboard")).Reload()
    return [(event.step, event.value) for event in events.Scalars(name)]


def read_mlflow(folder, name: str) -> Curve:
    from mlflow import MlflowClient

    client = MlflowClient()
    (experiment,) = client.search_experiments(filter_string=f"name = '{PROJECT}'")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.data.params["learning_rate"] == "0.001"
    return [(each.step, each.value) for each in client.get_metric_history(run.info.run_id, name)]


def level_records(content: bytes) -> Iterator[bytes]:
    """Those of a log of LevelDB behind wandb's seven bytes: blocks of records, which may go on in the next block."""
    place, data = 7, b""
    while place + 7 <= len(content):
        _, length, kind = struct.unpack_from("<IHB", content, place)
        data += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # a whole record, or its last part
            yield data
            data = b""
        if 32768 - place % 32768 < 7:  # no room for another header
            place += 32768 - place % 32768


def read_wandb(folder, name: str) -> Curve:
    import wandb
    from wandb.proto.wandb_internal_pb2 import Record

    wandb.teardown()  # what writes the file ends with the process
    found = {}
    for path in sorted(folder.glob("wandb/offline-run-*/run-*.wandb")):
        for data in level_records(path.read_bytes()):
            record = Record()
            record.ParseFromString(data)
            row = {(item.key or item.nested_key[0]): json.loads(item.value_json) for item in record.history.item}
            if name in row:
                assert row["_step"] not in found
                found[row["_step"]] = row[name]
    return sorted(found.items())


def read_trackio(folder, name: str) -> Curve:
    (path,) = folder.glob(f"trackio/{PROJECT}.db")
    with sqlite3.connect(path) as store:
        rows = [(step, json.loads(values)) for step, values in store.execute("SELECT step, metrics FROM metrics")]
    return sorted((step, row[name]) for step, row in rows if name in row)


READERS = {"tensorboard": read_tensorboard, "mlflow": read_mlflow, "trackio": read_trackio, "wandb": read_wandb}


@pytest.fixture
def places(tmp_path, monkeypatch):
    """Everything is kept below `tmp_path`, and nothing is sent anywhere."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    return tmp_path


@pytest.mark.parametrize("name", READERS)
def test_a_tracker_gets_each_step_once_also_of_a_resumed_run(name, places, monkeypatch):
    """Two steps an epoch; the third is logged, and lost with the state that would have been saved after it."""
    if find_spec(name) is None:
        pytest.skip(f"{name} is not installed")
    folder, calls = places / "run", []

    def optimize(*given, original=loop.optimize):
        calls.append(given)
        if len(calls) == 4:
            raise InterruptedError
        return original(*given)

    def run(**changes):
        model = tiny_backbone(dtype=torch.float32)
        made = make_run(folder, model, report_to=name, train_batch_size=4, **changes)
        try:
            loop.train(made, features(8), {"dev": features(3)}, {"args": {}})
        finally:
            made.trackers.finish()

    monkeypatch.setattr(loop, "optimize", optimize)
    with pytest.raises(InterruptedError):
        run()
    assert [row["step"] for row in metrics_of(folder)] == [1, 2, 3]
    run(resume="latest", resume_changed_code=False)
    read = READERS[name]
    rows = [(row["step"], pytest.approx(row["train_loss"])) for row in metrics_of(folder)]
    assert [step for step, _ in rows] == [1, 2, 3, 4, 5, 6]
    assert read(places, "train_loss") == rows
    epochs = json.loads((folder / "results.json").read_text())["epochs"]
    for figure, of in (("eval/score", "eval_score"), ("eval/loss", "eval_loss"), ("epoch_train_loss", "train_loss")):
        assert read(places, figure) == [(epoch["global_step"], pytest.approx(epoch[of])) for epoch in epochs]
    assert [step for step, _ in read(places, "eval/accuracy")] == [2, 4, 6]


# --- without any package ---


class Noting:
    """Stands in for a tracker of Accelerate."""

    told: list

    def __init__(self, project, *place, **settings):
        self.project, self.settings, self.tracker = project, settings, self
        self.id = settings.get("id", "first")

    def start(self):
        type(self).told = []

    def store_init_configuration(self, values):
        self.told.append(values)

    def log(self, values, step=None):
        self.told.append((step, values))

    def finish(self):
        self.told.append("finished")


@pytest.fixture
def noting(monkeypatch):
    monkeypatch.setattr("accelerate.tracking.LOGGER_TYPE_TO_CLASS", dict.fromkeys(trackers.RESUMED, Noting))
    return Noting


def test_all_trackers_of_accelerate_are_known(monkeypatch):
    assert sorted(trackers.RESUMED) == sorted(set(map(str, LoggerType)) - {"all"})
    monkeypatch.setattr(trackers, "_installed", lambda name: name in ("mlflow", "wandb"))
    assert trackers.chosen("none") == "none"
    assert trackers.chosen(["wandb", "MLflow,wandb"]) == "wandb,mlflow"
    assert trackers.chosen("all") == "mlflow,wandb"
    assert message(trackers.chosen, "aim") == "--report_to aim: the package is not installed; pip install aim"
    monkeypatch.setattr(trackers, "_installed", lambda name: False)
    assert message(trackers.chosen, "all").startswith("--report_to all: no tracker is installed: pip install one of")


def test_the_flag_takes_several(monkeypatch):
    monkeypatch.setattr(trackers, "_installed", lambda name: True)
    flags = ["--do_train", "--task_name", "SST-2", "--report_to", "tensorboard", "mlflow"]
    assert arguments.of_script("run_sent_clas", flags).report_to == "tensorboard,mlflow"
    assert arguments.of_script("run_sent_clas", flags[:3]).report_to == "none"


def test_a_folder_that_bears_its_name_is_no_package(tmp_path, monkeypatch):
    """As the offline runs of wandb leave it where the scripts are run."""
    (tmp_path / "asa_no_package").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    assert not trackers._installed("asa_no_package")


def test_each_is_told_the_arguments_and_what_is_new(noting, tmp_path):
    record, told = tmp_path / "trackers.json", {"tau": 0.5, "asa_layers": [0, 2], "fp16": True, "resume": None}
    first = Trackers("wandb", tmp_path, record)
    first.start(told, here=False)
    first.begin(0, 0)
    first.log("steps", {"train_loss": 1.0, "eval": None}, 5)
    first.finish()
    arguments_told = {"tau": 0.5, "asa_layers": "0 2", "fp16": True, "resume": "None"}
    assert noting.told == [arguments_told, (5, {"train_loss": 1.0}), "finished"]
    again = Trackers("wandb,comet_ml", tmp_path, record, resume=True)
    again.start(told, here=False)
    assert again.running["wandb"].settings == {"id": "first", "resume": "allow"}
    again.begin(5, 0)
    noting.told.clear()
    for kind in ("steps", "epochs"):
        again.log(kind, {"loss": 1.0}, 5)
    # comet_ml is new; wandb knows the step, and not the epoch.
    assert noting.told == [(5, {"loss": 1.0})] * 3


def test_one_that_cannot_be_started_ends_the_run_and_one_that_fails_does_not(noting, tmp_path, monkeypatch, caplog):
    def fail(*_, **__):
        raise ConnectionError("no\nserver")

    given = Trackers("wandb,mlflow", tmp_path, tmp_path / "trackers.json")
    given.start({}, here=False)
    monkeypatch.setattr(given.running["wandb"], "log", fail, raising=False)
    for step in (1, 2):
        given.log("steps", {"loss": 1.0}, step)
    assert caplog.text.count("--report_to wandb: it fails, and is told nothing more (no server)") == 1
    assert list(given.running) == ["mlflow"]
    monkeypatch.setattr(noting, "start", fail)
    said = message(Trackers("wandb", tmp_path).start, {}, False)
    assert said == "--report_to wandb: it cannot be started (no server): set it up, or leave it out"


def test_what_a_failed_tracker_missed_is_reported_by_the_resumed_run(noting, tmp_path, monkeypatch):
    """It failed at step 30, the run went on to 50, and is resumed from 40."""

    def fail(*_, **__):
        raise ConnectionError

    record = tmp_path / "trackers.json"
    first = Trackers("wandb", tmp_path, record)
    first.start({}, here=False)
    first.begin(0, 0)
    first.log("steps", {"loss": 1.0}, 20)
    monkeypatch.setattr(first.running["wandb"], "log", fail, raising=False)
    first.log("steps", {"loss": 1.0}, 30)
    again = Trackers("wandb", tmp_path, record, resume=True)
    again.start({}, here=False)
    again.begin(50, 0)
    noting.told.clear()
    for step in (20, 50):
        again.log("steps", {"loss": 1.0}, step)
    assert noting.told == [(50, {"loss": 1.0})]


def test_steps_are_not_reported_again_after_a_part_of_the_run_without_the_tracker(noting, tmp_path):
    """It was told of 100 steps; the run goes on from 50 without it to 60, and then with it."""
    record = tmp_path / "trackers.json"
    for report_to, told in (("wandb", 0), ("none", 100), ("wandb", 60)):
        part = Trackers(report_to, tmp_path, record, resume=True)
        part.start({}, here=False)
        part.begin(told, 0)
    noting.told.clear()
    for step in (80, 100, 120):
        part.log("steps", {"loss": 1.0}, step)
    assert noting.told == [(120, {"loss": 1.0})]
