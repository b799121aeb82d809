"""The benchmark of the two protocols."""

import json

import pytest
from test_data import write

from benchmarks import protocols


def test_the_release_counts_padding(encoder_folder, tmp_path, monkeypatch, capsys):
    """Rows of equal length, so that the protocols differ in nothing but the padding to --max_seq_length."""
    scored = ["1\tx\tx\tx\tx\tx\tx\ta film\ta plot\t2.5"] * 4
    write(tmp_path / "SST-2" / "train.tsv", "sentence\tlabel", *["a warm film\t1", "the weak plot\t0"] * 2)
    write(tmp_path / "STS-B" / "train.tsv", "\t".join("abcdefg") + "\tsentence1\tsentence2\tscore", *scored)
    write(tmp_path / "WNUT17" / "wnut17train.conll", *["a\tO", "film\tO", ""] * 4)
    output = tmp_path / "found.json"
    given = ["--data_dir", str(tmp_path), "--load_model_path", encoder_folder, "--batches", "1", "--batch_size", "4"]
    monkeypatch.setattr("sys.argv", ["protocols", *given, "--max_seq_length", "32", "--output", str(output)])
    protocols.main()
    rows = {(row["task"], row["figure"]): row for row in json.loads(output.read_text())["rows"]}
    assert len(rows) == 9
    for task in ("SST-2", "STS-B", "WNUT-2017"):
        penalty = rows[task, "penalty"]
        assert penalty["release"] > 2 * penalty["corrected"] > 0
    tags = rows["WNUT-2017", "divergence"]
    assert tags["release"] > 2 * tags["corrected"] > 0  # also of pads
    sentences = rows["SST-2", "divergence"]
    assert sentences["release"] == pytest.approx(sentences["corrected"], rel=1e-4)
    assert "| SST-2 | penalty |" in capsys.readouterr().out
