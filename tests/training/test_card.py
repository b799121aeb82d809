"""The model card in best/: its metadata as the Hub reads them, its figures, and whose file it is."""

import pytest
from huggingface_hub import ModelCard
from own_tables import rows_of_films, table
from script_runs import results_of

import run_sent_clas
from training.card import is_card, model_card

ARGS = {
    "load_model_path": "org/encoder",
    "task_name": "SST-2",
    "method": "asa",
    "eval_on": "dev",
    "tau": 0.3,
    "learning_rate": 2e-5,
    "train_batch_size": 32,
    "seed": 42,
    "rdrop_alpha": 1.0,
}
RESULTS = {
    "args": ARGS,
    "versions": {"torch": "2.13.0", "code": None},
    "precision": "fp32",
    "examples": {"train": 67349, "eval": 872},
    "best": {"epoch": 1, "global_step": 4210, "metrics": {"accuracy": 93.0046}},
}


def test_the_metadata_are_those_of_the_hub():
    text = model_card(RESULTS, "BertForSequenceClassification")
    assert model_card(RESULTS, "BertForSequenceClassification") == text
    data = ModelCard(text, ignore_metadata_errors=False).data
    assert (data.base_model, data.pipeline_tag, data.library_name) == (
        "org/encoder",
        "text-classification",
        "transformers",
    )
    assert data.tags == ["adversarial-self-attention", "asa"]
    [result] = data.eval_results
    assert (result.dataset_name, result.dataset_split, result.metric_type, result.metric_value) == (
        "SST-2",
        "dev",
        "accuracy",
        93.0046,
    )
    for row in ("| accuracy | 93.00 |", "| tau | 0.3 |", "| learning_rate | 2e-05 |", "| precision | fp32 |"):
        assert row in text
    assert "rdrop_alpha" not in text  # which ASA does not read
    assert "epoch 1 (counted from 0), after 4210 steps, the best of its run" in text


@pytest.mark.parametrize(
    ("model_class", "pipeline"),
    [
        ("RobertaForMultipleChoice", "multiple-choice"),
        ("BertForTokenClassification", "token-classification"),
        ("BertForMaskedLM", "fill-mask"),
    ],
)
def test_each_head_has_its_pipeline(model_class, pipeline):
    text = model_card(RESULTS | {"best": {"epoch": 0, "global_step": 1, "metrics": {}}}, model_class)
    data = ModelCard(text).data
    assert data.pipeline_tag == pipeline
    assert data.eval_results is None
    assert "It was not evaluated." in text
    assert "the last of its run" in text


def test_a_folder_is_no_base_model(tmp_path):
    results = RESULTS | {"args": ARGS | {"load_model_path": str(tmp_path)}}
    text = model_card(results, "BertForSequenceClassification")
    assert ModelCard(text).data.base_model is None
    assert str(tmp_path) not in text  # a path says nothing on another machine
    assert (
        ModelCard(model_card(RESULTS | {"args": ARGS | {"load_model_path": "all-MiniLM-L6-v2"}}, "X")).data.base_model
        is None
    )


def test_a_run_writes_a_card_and_removes_no_other(script, tmp_path, capsys):
    train = table(tmp_path / "films.csv", rows_of_films(8))
    given = (run_sent_clas, "--do_train", "--do_eval", "--train_file", train, "--dev_file", train)
    assert script(*given) == 0
    card = tmp_path / "out" / "best" / "README.md"
    best = results_of(tmp_path / "out")["best"]
    assert ModelCard.load(card).data.eval_results[0].metric_value == round(best["metrics"]["accuracy"], 4)
    assert is_card(card)
    assert script(*given, "--overwrite_output_dir") == 0
    card.write_text("# Mine\n")
    capsys.readouterr()
    assert script(*given, "--overwrite_output_dir") == 2
    assert "best/README.md is not a file that a run writes" in capsys.readouterr().err
    assert card.read_text() == "# Mine\n"
