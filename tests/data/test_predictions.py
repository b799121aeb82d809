"""Predictions per example: the scores of a run come out of them again, for the last epoch and for the best."""

import json

import numpy as np
import pytest
from script_runs import message, results_of, run_folder
from sklearn.metrics import accuracy_score
from test_data import write

import run_multi_cho
import run_sent_clas
import run_tok_clas
from data.features import Features
from data.predictions import file_name, read_predictions, write_predictions

SENTENCES = ["a warm film\t1", "a dull plot\t0", "a warm film with music\t1", "not a good story\t0", "fine\t1"]


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    question = {"question": "good?", "choice": ["the film", "the music", "the script"], "answer": "the film"}
    dialogues = [[["M: is it good?"], [question], "1"], [["W: it is dull."], [question], "2"]]
    for name in ("train", "dev"):
        write(folder / "sst-2" / f"{name}.tsv", "sentence\tlabel", *SENTENCES)
        write(folder / "sts-b" / f"{name}.tsv", "index\tsentence1\tsentence2\tscore", "7\ta\tb\t2.5", "9\ta\ta\t5")
        write(folder / "dream" / f"{name}.json", json.dumps(dialogues))
        write(folder / "wnut-2017" / f"{name}.txt", "the\tO", "film\tB-product", "", "music\tB-group", "")
    return folder


def test_scores_come_out_again_for_the_last_epoch_and_the_best(data_dir, encoder_folder, tmp_path):
    flags = ("--do_train", "--do_eval", "--num_train_epochs", "4", "--learning_rate", "2e-2", "--seed", "5")
    out = run_folder(run_sent_clas.main, data_dir, encoder_folder, tmp_path / "out", "SST-2", *flags)
    record = results_of(out)
    scores = [epoch["eval_score"] for epoch in record["epochs"]]
    assert record["best"]["epoch"] < 3, "choose a seed whose last epoch is not its best"
    found = read_predictions(out / "predictions" / "SST-2.parquet")
    assert found["index"] == [str(number) for number in range(5)]
    assert found["label"] == [1, 0, 1, 0, 1]
    for column, score in (("logits", scores[-1]), ("best_logits", record["best"]["eval_score"])):
        assert 100 * accuracy_score(found["label"], np.argmax(found[column], 1)) == pytest.approx(score)
    assert found["logits"] != found["best_logits"]

    flags = ("--do_eval", "--test_model_file", str(out / "3_pytorch_model.bin"))
    again = run_folder(run_sent_clas.main, data_dir, encoder_folder, tmp_path / "again", "SST-2", *flags)
    evaluated = read_predictions(again / "predictions" / "SST-2.parquet")
    assert evaluated.keys() == {"index", "label", "logits"}
    np.testing.assert_allclose(evaluated["logits"], found["logits"], rtol=1e-5)


def test_of_regressions_choices_and_words(data_dir, encoder_folder, tmp_path):
    def run(script, task: str, name: str) -> dict:
        flags = ("--do_train", "--do_eval")
        out = run_folder(script.main, data_dir, encoder_folder, tmp_path / task, task, *flags)
        return read_predictions(out / "predictions" / f"{name}.parquet")

    found = run(run_sent_clas, "STS-B", "STS-B")
    assert (found["index"], found["label"]) == (["7", "9"], [2.5, 5.0])
    assert np.shape(found["logits"]) == (2, 1)
    found = run(run_multi_cho, "DREAM", "DREAM")
    assert (found["index"], found["label"]) == (["1/1", "2/1"], [0, 0])
    assert np.shape(found["logits"]) == (2, 3)
    found = run(run_tok_clas, "WNUT-2017", "WNUT-2017")
    assert [len(row) for row in found["label"]] == [2, 1]
    assert [[len(word) for word in row] for row in found["logits"]] == [[13, 13], [13]]
    assert found["best_logits"] == found["logits"]


def test_a_word_that_the_encoder_did_not_see_has_no_logits(tmp_path):
    class Words:
        def __init__(self, labels):
            self.labels = labels

    rows = Features(
        {"input_ids": [[1, 5, 2]]}, examples=[Words([3, 0])], first_tokens=[[1, None]], labels=[[-100, 3, -100]]
    )
    write_predictions(tmp_path / "x.parquet", rows, [np.array([[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]])])
    assert read_predictions(tmp_path / "x.parquet") == {
        "index": ["0"],
        "label": [[3, 0]],
        "logits": [[[2.0, 3.0], None]],
    }


def test_logits_of_another_best_epoch_are_not_taken_for_the_best(tmp_path):
    class Row:
        label, index = 1, "a"

    rows, path = Features({"input_ids": [[1]]}, examples=[Row()], labels=[1]), tmp_path / "x.parquet"
    write_predictions(path, rows, [np.array([0.0, 1.0])], best_epoch=0, is_best=True)
    write_predictions(path, rows, [np.array([0.0, 2.0])], best_epoch=0)
    assert read_predictions(path)["best_logits"] == [[0.0, 1.0]]
    for last in (3.0, 4.0):  # the second finds a file without them
        write_predictions(path, rows, [np.array([0.0, last])], best_epoch=1)
        assert read_predictions(path) == {"index": ["a"], "label": [1], "logits": [[0.0, last]]}


def test_names_and_files_of_another_kind(tmp_path):
    assert file_name("MNLI-m") == "MNLI-m.parquet"
    assert file_name("some/where/odd name.tsv") == "odd_name.parquet"
    write(tmp_path / "x.parquet", "text")
    assert message(read_predictions, tmp_path / "x.parquet").startswith(f"{tmp_path / 'x.parquet'}: not a file of")


def test_an_evaluation_beside_a_training_leaves_its_predictions_alone(data_dir, encoder_folder, tmp_path):
    flags = ("--do_train", "--do_eval")
    out = run_folder(run_sent_clas.main, data_dir, encoder_folder, tmp_path / "out", "SST-2", *flags)
    before = (out / "predictions" / "SST-2.parquet").read_bytes()
    flags = ("--do_eval", "--test_model_file", str(out / "0_pytorch_model.bin"))
    run_folder(run_sent_clas.main, data_dir, encoder_folder, out, "SST-2", *flags)
    assert (out / "predictions" / "SST-2.parquet").read_bytes() == before
    again = read_predictions(out / "predictions" / "evaluation-SST-2.parquet")
    np.testing.assert_allclose(again["logits"], read_predictions(out / "predictions" / "SST-2.parquet")["logits"], 1e-5)
    args = (run_sent_clas.main, data_dir, encoder_folder, out, "SST-2", *flags)
    assert "it has results already (evaluation.json)" in message(run_folder, *args)
