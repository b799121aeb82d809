"""The benchmark runs, and its table has what it measured."""

import json
import os
import sys
import time
from dataclasses import asdict

import pytest
from script_runs import REAL_DATA, needs_real_data
from test_data import write

from benchmarks import throughput
from data import cache
from training import loop


@pytest.fixture
def flags(encoder_folder, tmp_path, monkeypatch) -> list[str]:
    """A tiny encoder, which has 64 positions, and lengths of our own."""
    monkeypatch.setattr(throughput, "MAX_SEQ_LENGTH", 60)
    monkeypatch.setattr(throughput, "LENGTHS", tmp_path / "lengths.json")
    lengths = {name: {"train": {"5": 3, "9": 1}, "eval": {"7": 1}} for name in ("SST-2", "DREAM")}
    throughput.LENGTHS.write_text(json.dumps(lengths))
    return ["--no_cuda", "--threads", "1", "--rounds", "1", "--load_model_path", encoder_folder]


def test_a_quick_benchmark(flags, tmp_path, capsys):
    output = tmp_path / "results.json"
    throughput.main([*flags, "--quick", "--output", str(output)])
    results = json.loads(output.read_text())
    assert set(results["tasks"]) == {"SST-2", "DREAM"}
    for task in results["tasks"].values():
        ours, release = task["training"]
        assert ours["widths"][0] in (5, 9)
        assert release["widths"] == [60]
        assert ours["examples_per_second"] > 0
        assert [row["way"] for row in task["evaluation"]] == ["ours", "release"]
    best = throughput.fast(throughput.parse_arguments(flags))
    assert f"| asa corrected {best} sdpa |" in capsys.readouterr().out


def test_the_table_s_ratios():
    """Twice as fast as the release, and 1.5 plain steps."""
    variants = [throughput.Variant("naive", "fp32"), throughput.Variant("asa", "fp32"), throughput.BASELINE]
    training = [
        {**asdict(variant), "step_seconds": [0.1 * place], "examples_per_second": rate}
        for place, (variant, rate) in enumerate(zip(variants, (60.0, 40.0, 20.0), strict=True), 1)
    ]
    evaluation = [
        {"way": "ours", "precision": "fp32", "examples_per_second": 300.0},
        {"way": "release", "precision": "fp32", "examples_per_second": 100.0},
    ]
    tasks = {"SST-2": {"training": training, "evaluation": evaluation}}
    lines = throughput.report({"device": "cpu", "tasks": tasks}).splitlines()
    assert "| naive corrected fp32 sdpa | 100 | 60.0 | 3.0 | 1.00 |" in lines
    assert "| asa corrected fp32 sdpa | 200 | 40.0 | 2.0 | 1.50 |" in lines
    assert "| asa release fp32 eager | 300 | 20.0 | 1.0 |  |" in lines
    assert "| evaluation, fp32, sorted | | 300 | 3.0 | |" in lines


def test_a_process_reports_its_memory_and_step(flags, capsys):
    throughput.main([*flags, "--child", json.dumps({"method": "asa", "precision": "bf16"})])
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["peak_megabytes"] > 100
    assert found["median_step_seconds"] > 0


def test_the_first_step_from_cold_and_from_the_cache(flags, tmp_path, monkeypatch):
    """Each in a process of its own, whose standing-in gives the flags that count."""
    asked = []

    def run_child(args, job):
        argv = job["argv"]
        asked.append(argv[argv.index("--output_dir") + 2 : argv.index("--max_seq_length")])
        return {"seconds": float(len(asked))}

    monkeypatch.setattr(throughput, "run_child", run_child)
    found = throughput.first_steps(throughput.parse_arguments([*flags, "--data_dir", str(tmp_path)]))
    assert found == {"cold": 1.0, "from cache": 3.0}
    precision = ["--bf16"] if throughput.fast(throughput.parse_arguments(flags)) == "bf16" else []
    assert asked[0] == ["--no_token_cache", *precision]
    assert asked[1] == asked[2] == ["--token_cache_dir", asked[1][1], *precision]
    assert throughput.first_steps(throughput.parse_arguments(flags)) == {}


def test_a_first_step_is_timed(flags, tmp_path, monkeypatch, capsys):
    write(tmp_path / "sst-2" / "train.tsv", "sentence\tlabel", "a warm film\t1", "a dull plot\t0")
    write(tmp_path / "sst-2" / "dev.tsv", "sentence\tlabel", "a film\t1")
    monkeypatch.setattr(os, "_exit", sys.exit)
    monkeypatch.setattr(loop, "optimize", loop.optimize)
    monkeypatch.setattr(cache, "CACHED_FROM", cache.CACHED_FROM)
    argv = ["--do_train", "--task_name", "SST-2", "--data_dir", str(tmp_path), "--load_model_path", flags[-1]]
    argv += ["--output_dir", str(tmp_path / "out"), "--token_cache_dir", str(tmp_path / "cache"), "--no_cuda"]
    job = {"argv": [*argv, "--max_seq_length", "16"], "started": time.time() - 100}
    with pytest.raises(SystemExit):
        throughput.main([*flags, "--child", json.dumps(job)])
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["seconds"] > 100
    assert len(list((tmp_path / "cache").glob("SST-2-*/rows.arrow"))) == 1


@needs_real_data
def test_lengths_of_the_official_files(flags, tmp_path):
    throughput.main([*flags, "--quick", "--data_dir", REAL_DATA, "--output", str(tmp_path / "results.json")])
    tasks = json.loads((tmp_path / "results.json").read_text())["tasks"]
    assert all(1 < row["widths"][0] <= 60 for task in tasks.values() for row in task["training"])
