"""The benchmark that says what R3F and SMART measure."""

import json

import pytest
from conftest import save_tiny_encoder

from benchmarks import noise


def test_what_is_measured(tmp_path, capsys):
    encoder, output = tmp_path / "encoder", tmp_path / "noise.json"
    save_tiny_encoder(encoder, hidden_dropout_prob=0.1)
    noise.main(["--load_model_path", str(encoder), "--batches", "1", "--batch_size", "4", "--output", str(output)])
    rows = {(row["method"], row["dropout"], any(row["noise"])): row for row in json.loads(output.read_text())["rows"]}
    assert len(rows) == 8
    for method in ("r3f", "smart"):
        nothing, fine = rows[method, False, False], rows[method, False, True]
        assert [nothing[precision] for precision in noise.PRECISIONS] == [0, 0, 0]
        assert fine["bf16"] == fine["fp32"] > 0
    assert rows["r3f", False, True]["bf16 throughout"] > 100 * rows["r3f", False, True]["fp32"]
    none, published = (rows["r3f", True, noised] for noised in (False, True))
    for precision in noise.PRECISIONS:
        assert published[precision] == pytest.approx(none[precision], rel=0.02)
        assert published[precision] > 1e4 * rows["r3f", False, True]["fp32"]
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "| method | dropout | noise | fp32 | bf16 | bf16 throughout |"
    assert said[3] == "| r3f | no | none | 0 | 0 | 0 |"
    assert len(said) == 10
