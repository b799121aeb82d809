"""The benchmark of the row budget's variants, on the DEMO task and a tiny encoder."""

import json

import pytest
import torch
from test_adversary import given  # noqa: F401

from benchmarks import budget_variants
from models.budget import RowBudget


def test_every_variant_is_measured(given, tmp_path, capsys, monkeypatch):  # noqa: F811
    monkeypatch.setattr(budget_variants, "MEASURED_FROM", 0)
    output = tmp_path / "variants.json"
    budget_variants.main([*given, "--budget", "0.3", "--seeds", "1", "--output", str(output)])
    budget_variants.main(
        [*given, "--budget", "0.3", "--seeds", "1,2", "--variants", "as it is", "--output", str(output)]
    )
    *runs, second = json.loads(output.read_text())["runs"]  # what is recorded is not measured again
    assert (second["variant"], second["seed"]) == ("as it is", 2)
    assert [run["variant"] for run in runs] == list(budget_variants.VARIANTS)
    figures = [tuple(state["learned"] for state in run["states"]) for run in runs]
    assert len({*figures}) == len(runs)  # each differs from all others
    assert all(len(run["states"]) == 2 and state["liveness"] > 0 for run in runs for state in run["states"])
    lines = capsys.readouterr().out.splitlines()[: 2 + len(runs)]
    assert [line.split(" | ")[0] for line in lines[2:]] == [f"| {name}" for name in budget_variants.VARIANTS]


def test_as_it_is_means_the_rule_of_the_method():
    torch.manual_seed(0)
    score, visible = torch.randn(2, 5, 5), torch.ones(2, 1, 5, dtype=torch.bool)
    real = torch.ones(2, 5, 1, dtype=torch.bool)
    first, last = budget_variants.layer_rules(budget_variants.Variant(), 0.4, 2)
    for rule in (first, last):
        for ours, theirs in zip(rule(score, visible, real), RowBudget(0.4)(score, visible, real), strict=True):
            assert torch.equal(ours, theirs)


@pytest.mark.parametrize("real", [5, 3])
def test_the_share_of_a_layer(real):
    """Of all pairs of a sentence, whatever the rows."""
    torch.manual_seed(0)
    score, tokens = torch.randn(2, 5, 5), torch.arange(5) < real
    [rule] = budget_variants.layer_rules(budget_variants.Variant(of_layer=True), 0.3, 1)
    keep, _ = rule(score, tokens.expand(2, 1, 5), tokens[:, None].expand(2, 5, 1))
    hidden = (keep == 0) & (tokens & tokens[:, None])
    assert hidden.sum((1, 2)).tolist() == [round(0.3 * real**2)] * 2
    for sentence in range(2):
        pairs = score[sentence, :real, :real]
        assert pairs[hidden[sentence, :real, :real]].max() < pairs[~hidden[sentence, :real, :real]].min()
