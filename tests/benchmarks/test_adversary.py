"""The benchmark that says why the masks open, on the DEMO task and a tiny encoder."""

import json

import pytest
import torch
from conftest import save_tiny_encoder
from script_runs import message

from benchmarks import adversary
from data.demo import write_demo


@pytest.fixture(scope="module")
def given(tmp_path_factory) -> list[str]:
    folder = tmp_path_factory.mktemp("given")
    write_demo(folder / "sets" / "DEMO")
    rows = (folder / "sets" / "DEMO" / "train.tsv").read_text().splitlines(keepends=True)
    (folder / "sets" / "DEMO" / "train.tsv").write_text("".join(rows[:129]))
    save_tiny_encoder(folder / "encoder", hidden_dropout_prob=0.1, initializer_range=0.1)
    flags = ["--task_name", "demo", "--data_dir", str(folder / "sets"), "--load_model_path", str(folder / "encoder")]
    return [*flags, "--steps", "2", "--every", "1", "--batches", "2", "--max_seq_length", "60"]


def test_what_is_measured(given, tmp_path, capsys):
    output = tmp_path / "adversary.json"
    adversary.main([*given, "--taus", "0.5", "--output", str(output)])
    first = json.loads(output.read_text())["runs"]
    adversary.main([*given, "--taus", "0.5,0", "--budgets", "0.3", "--output", str(output)])
    runs = json.loads(output.read_text())["runs"]
    assert runs[:1] == first  # what is recorded is not measured again
    asa, free, budget = runs
    assert [(run["setting"]["tau"], run["setting"]["budget"]) for run in runs] == [
        (0.5, None),
        (0.0, None),
        (None, 0.3),
    ]
    for run in runs:
        assert [state["step"] for state in run["states"]] == [0, 1, 2]
        assert len(run["keep_rate"]) == 2
        for state in run["states"]:
            assert state["liveness"] > 0
            lower, last = state["layers"]
            for layer in (lower, last):
                assert layer["row_sum"] < 1e-4
                assert layer["divergence"] > 0
                assert abs(layer["divergence_cosine"]) <= 1
                assert layer["score_spread"] > 0
                assert 0 < layer["shared"] < 1
                assert layer["zeros_hidden"] == (0.0 if run is budget else 1.0)
                assert layer["zeros_kept"] < 0.05
            # Of what the first token reads in the last layer alone: there, -1e4 hides tokens, and the budget does not.
            assert lower["rows_reached"] == 1.0 if run is budget else 0.3 < lower["rows_reached"] < 0.99
            assert lower["first_row"] < 0.999
            assert last["rows_reached"] < 0.2  # only the first token's is read
            assert last["first_row"] == pytest.approx(1.0)
    layer = asa["states"][0]["layers"][0]
    assert layer["ratio"] == pytest.approx(layer["penalty"] / layer["divergence"])
    assert layer["penalty_cosine"] > 0.5
    assert free["states"][0]["layers"][0]["penalty"] == 0
    assert free["states"][0]["layers"][0]["penalty_cosine"] is None
    # Before the first step they are the same model.
    assert free["states"][0]["layers"][0]["divergence"] == pytest.approx(layer["divergence"])
    assert [0.6 < rate < 0.8 for rate in budget["keep_rate"][0]] == [True, True]
    said = capsys.readouterr().out.splitlines()
    assert said[-1].startswith("| budget 0.3, rate 2e-05, seed 42 | 2 | ")
    assert len(said) == (2 + 3) + (2 + 9)
    adversary.main([*given, "--every", "2", "--taus", "0.5", "--output", str(tmp_path / "seldom.json")])
    [seldom] = json.loads((tmp_path / "seldom.json").read_text())["runs"]
    assert seldom["keep_rate"] == asa["keep_rate"]  # training does not notice the measurements
    assert seldom["states"][-1] == asa["states"][-1]


def test_cosines_and_sums_by_value():
    pairs = torch.tensor([[[True, True, False], [True, True, False], [False] * 3]])

    def batch(divergence: list[float], penalty: list[float]) -> dict:
        bias = torch.tensor([[[3.0, -1.0, 9.0], [0.0, 0.0, 9.0], [9.0] * 3]])
        return {
            "divergence": torch.tensor(divergence),
            "penalty": torch.tensor(penalty),
            "score": bias,
            "bias": bias,
            "read": torch.tensor([[1.0, 1.0], [1.0, -1.0]]),
            "scores": torch.tensor([1.0, 2.0, 3.0, 4.0]),
            "pairs": pairs,
            "hidden": torch.tensor([[[False, True, False], [True, False, False], [False] * 3]]),
            "keep_rate": torch.tensor(0.5),
        }

    found = adversary.of_layer([batch([3.0, 4.0], [5.0, 0.0]), batch([0.0, 5.0], [5.0, 0.0])])
    assert found["divergence"] == pytest.approx(5)
    assert found["ratio"] == pytest.approx(1)
    assert found["divergence_cosine"] == pytest.approx(0.8)
    assert found["penalty_cosine"] == pytest.approx(1)
    assert found["rows_reached"] == 0.5
    assert found["first_row"] == 1
    assert (found["zeros_hidden"], found["zeros_kept"]) == (0, 0)
    assert found["row_sum"] == pytest.approx(2 / 4)
    assert found["shared"] == pytest.approx(0.5)
    assert found["score_spread"] == pytest.approx(torch.tensor([1.0, 2, 3, 4] * 2).std().item())


def test_what_cannot_be(given, tmp_path):
    assert message(adversary.main, [*given, "--batches", "1"]).startswith("--batches: two at the least")
    output = tmp_path / "adversary.json"
    output.write_text(json.dumps({"args": {"task_name": "CoLA"}, "runs": []}))
    said = message(adversary.main, [*given, "--output", str(output)])
    assert said == f"--output {output}: its runs have --task_name CoLA: give another file"
