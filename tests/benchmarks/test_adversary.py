"""The benchmark that says why the masks open, on the DEMO task and a tiny encoder."""

import json

import pytest
import torch
from conftest import save_tiny_encoder
from script_runs import message
from transformers import get_scheduler

from benchmarks import adversary
from data.demo import write_demo
from data.task_kinds import Recipe


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
    assert said[-7].startswith("| budget 0.3, rate 2e-05, seed 42 | 2 | ")
    assert len(said) == (2 + 3 + 1 + 2 + 1) + (2 + 9 + 1 + 2 + 3)
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


def test_when_the_layers_open():
    rates = [[0.5, 0.95, 0.2], [0.9, 0.4, 0.3], [0.8, 1.0, 0.89]]
    assert adversary.opened(rates) == [1, 0, None]
    assert adversary.opened([]) == []
    run = {"setting": {"tau": 0.5, "budget": None, "learning_rate": 1e-5, "seed": 1}, "opened": [1, 0, None]}
    recipe = Recipe(train_examples=0, warmup_proportion=0.5, num_train_epochs=1, train_batch_size=10)
    assert adversary.openings([run], recipe, 40).splitlines()[-1] == (
        "| tau 0.5, rate 1e-05, seed 1 | 1 (0.00e+00) | 0 (0.00e+00) |  |"
    )


def test_the_sum_of_the_learning_rates_is_that_of_the_schedule():
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    recipe = Recipe(train_examples=0, warmup_proportion=0.3, num_train_epochs=2, train_batch_size=10)
    scheduler = get_scheduler("linear", optimizer, 3, 10)  # 45 rows are 5 batches an epoch
    total = 0.0
    for step in range(12):
        assert adversary.learning_rate_sum(0.1, step, recipe, 45) == pytest.approx(total)
        total += scheduler.get_last_lr()[0]
        optimizer.step()
        scheduler.step()


def test_the_random_masks_may_be_drawn_several_times(given, tmp_path):
    found = []
    for draws in (1, 3):
        output = tmp_path / f"{draws}.json"
        flags = ["--steps", "0", "--taus", "0.5", "--mask_draws", str(draws), "--output", str(output)]
        adversary.main([*given, *flags])
        [state] = json.loads(output.read_text())["runs"][0]["states"]
        found.append(state)
    one, several = found
    assert "liveness_of_draws" not in one
    each = several["liveness_of_draws"]
    assert each[0] == pytest.approx(one["liveness"])
    assert len(set(each)) == 3
    assert 1 / several["liveness"] == pytest.approx(sum(1 / value for value in each) / 3)
    assert several["layers"] == one["layers"]


def test_what_cannot_be(given, tmp_path):
    assert message(adversary.main, [*given, "--batches", "1"]).startswith("--batches: two at the least")
    output = tmp_path / "adversary.json"
    output.write_text(json.dumps({"args": {"task_name": "CoLA"}, "runs": []}))
    said = message(adversary.main, [*given, "--output", str(output)])
    assert said == f"--output {output}: its runs have --task_name CoLA: give another file"


def test_without_dropout_the_measurement_is_the_same_again(given, tmp_path):
    """With it, the divergence is that of two draws of dropout as well, and so is its gradient."""
    found = {}
    for flags in ((), ("--no_dropout",)):
        output = tmp_path / f"{len(flags)}.json"
        adversary.main([*given, *flags, "--steps", "0", "--taus", "0.5", "--output", str(output)])
        [state] = json.loads(output.read_text())["runs"][0]["states"]
        found[flags] = state["layers"][0]
    drawn, plain = found.values()
    assert drawn["keep_rate"] == pytest.approx(plain["keep_rate"], rel=0.05)
    assert drawn["divergence"] > 2 * plain["divergence"] > 0
    said = message(adversary.main, [*given, "--taus", "0.5", "--output", str(output)])
    assert said == f"--output {output}: its runs have --no_dropout True: give another file"
