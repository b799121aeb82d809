"""The benchmark of large sets: its rows are read as MNLI's, and its second start finds what its first one made."""

import json

import pytest

from benchmarks import scale
from data.readers import read_file
from data.tasks import NLI, SENTENCE_TASKS

WORDS = ["film", "plot", "warm"]


def test_the_rows_are_those_of_mnli(tmp_path):
    scale.write_pairs(tmp_path / "train.tsv", 2000, WORDS)
    rows = read_file(SENTENCE_TASKS["MNLI"], tmp_path / "train.tsv", True)
    assert [row.index for row in rows] == [str(number) for number in range(2000)]
    assert {row.label for row in rows} == set(range(len(NLI)))
    for place, mean in enumerate(scale.WORDS):
        words = [row.texts[place].split() for row in rows]
        assert {word for text in words for word in text} == set(WORDS)
        assert sum(map(len, words)) / len(words) == pytest.approx(mean, rel=0.1)
    scale.write_pairs(tmp_path / "again.tsv", 2000, WORDS)
    assert (tmp_path / "again.tsv").read_bytes() == (tmp_path / "train.tsv").read_bytes()


def test_the_second_start_is_from_the_cache(encoder_folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(scale, "GOALS", {"data": 1e6, "peak_megabytes": 1.0})
    output = tmp_path / "scale.json"
    flags = ["--load_model_path", encoder_folder, "--max_seq_length", "16", "--no_cuda", "--output", str(output)]
    with pytest.raises(SystemExit, match="1"):  # a goal is missed
        scale.main(["--pairs", "6000", *flags])  # a little more than what is not cached
    results = json.loads(output.read_text())
    first, second = results["starts"].values()
    assert first["tokenised"]
    assert not second["tokenised"]
    for found in (first, second):
        assert 0 < found["to_data"] < found["to_data"] + found["data"] < found["to_first_step"] < found["whole"]
        assert 100 < found["data_peak_megabytes"] <= found["peak_megabytes"]
    assert results["missed"] == ["peak_megabytes"]
    assert "| second, from the cache |" in capsys.readouterr().out
