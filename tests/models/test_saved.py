"""What a run saves beside the weights: tokenizer, class names, names of weights."""

import json

import pytest
import tokenizers
from model_folders import edit, load_stock, model_folder, name_as_tensorflow, small_sst2
from safetensors.torch import load_file
from script_runs import run_folder
from transformers import AutoTokenizer

import run_sent_clas

OWN_LENGTHS = {
    "truncation": {"direction": "Right", "max_length": 40, "strategy": "LongestFirst", "stride": 0},
    "padding": {
        "strategy": {"Fixed": 40},
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": "[PAD]",
    },
}


@pytest.mark.parametrize("own", [{"truncation": None, "padding": None}, OWN_LENGTHS])
@pytest.mark.parametrize("limit", [64, 512, None])
def test_the_tokenizer_is_saved_as_the_encoder_s_own(own, limit, encoder_folder, tmp_path):
    encoder = model_folder(tmp_path / "encoder", encoder_folder)
    edit(encoder / "tokenizer.json", lambda settings: settings.update(own))
    edit(
        encoder / "tokenizer_config.json",
        lambda c: c.pop("model_max_length") if limit is None else c.update(model_max_length=limit),
    )
    flags = ("--do_train", "--do_eval", "--no_token_cache", "--max_seq_length", "6", "--num_train_epochs", "2")
    run = run_folder(run_sent_clas.main, small_sst2(tmp_path), str(encoder), tmp_path / "run", "SST-2", *flags)
    saved, given = (json.loads((folder / "tokenizer.json").read_text()) for folder in (run / "best", encoder))
    assert saved == given
    assert {name: saved[name] for name in own} == own
    text = "a warm film and music and music and music"
    tokenizer = tokenizers.Tokenizer.from_file(str(run / "best" / "tokenizer.json"))
    assert len(tokenizer.encode(text).ids) == (40 if own["padding"] else len(text.split()) + 2)
    loaded = AutoTokenizer.from_pretrained(run / "best")
    assert loaded.model_max_length == AutoTokenizer.from_pretrained(encoder).model_max_length
    assert limit is None or loaded.model_max_length == limit


def test_class_names_of_another_task_are_not_saved(encoder_folder, tmp_path):
    encoder = model_folder(tmp_path / "encoder", encoder_folder, names=["a", "b", "c"])
    flags = ("--do_train", "--no_token_cache")
    run = run_folder(run_sent_clas.main, small_sst2(tmp_path), str(encoder), tmp_path / "run", "SST-2", *flags)
    config = json.loads((run / "best" / "config.json").read_text())
    assert config["id2label"] == {"0": "0", "1": "1"}
    assert config["label2id"] == {"0": 0, "1": 1}


def test_names_of_tensorflow_are_not_saved(encoder_folder, tmp_path):
    encoder = model_folder(tmp_path / "encoder", encoder_folder)
    name_as_tensorflow(encoder)
    flags = ("--do_train", "--no_token_cache")
    run = run_folder(run_sent_clas.main, small_sst2(tmp_path), str(encoder), tmp_path / "run", "SST-2", *flags)
    assert load_file(run / "best" / "model.safetensors").keys() == load_stock(run / "best").state_dict().keys()
