"""The benchmark of masked language modelling: what autograd keeps, and the table."""

import json

from benchmarks import pretraining


def test_what_is_kept_and_the_table(encoder_folder, tmp_path, capsys):
    """Of 4 x 16 tokens 2 in each row are masked: the head of the stock model keeps all positions, the others those."""
    output = tmp_path / "found.json"
    given = ["--no_cuda", "--threads", "1", "--steps", "2", "--train_batch_size", "4", "--max_seq_length", "16"]
    pretraining.main([*given, "--load_model_path", encoder_folder, "--methods", "asa", "--output", str(output)])
    found = json.loads(output.read_text())["variants"]
    assert list(found) == ["naive", "asa", pretraining.STOCK]
    assert found["naive"]["to_naive"] == 1
    kept = {variant: row["kept_vocabulary_numbers"] for variant, row in found.items()}
    assert kept[pretraining.STOCK] / kept["naive"] == 8
    assert kept["asa"] == 4 * kept["naive"]
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(" | ")[0] for line in lines[-3:]] == ["| naive", "| asa", f"| {pretraining.STOCK}"]


def test_the_ratio_is_of_the_seconds_to_those_of_plain_training(encoder_folder, tmp_path, monkeypatch):
    def timed(_, run, *given):
        return 0.5 if run.args.method == "asa" else 0.2

    monkeypatch.setattr(pretraining, "timed", timed)
    output = tmp_path / "found.json"
    given = ["--no_cuda", "--threads", "1", "--steps", "1", "--train_batch_size", "4", "--max_seq_length", "16"]
    pretraining.main([*given, "--load_model_path", encoder_folder, "--methods", "asa", "--output", str(output)])
    found = json.loads(output.read_text())["variants"]
    assert [row["to_naive"] for row in found.values()] == [1, 2.5, 1]
    assert [row["step_seconds"] for row in found.values()] == [0.2, 0.5, 0.2]


def test_the_table_has_milliseconds_and_millions():
    rows = {
        "naive": {"step_seconds": 0.2, "to_naive": 1.0, "kept_vocabulary_numbers": 19_000_000},
        "asa": {"step_seconds": 0.5, "to_naive": 2.5, "kept_vocabulary_numbers": 74_000_000},
    }
    lines = pretraining.report({"device": "cpu", "variants": rows}).splitlines()
    assert lines[-2:] == ["| naive | 200 | 1.00 | 19 |", "| asa | 500 | 2.50 | 74 |"]
