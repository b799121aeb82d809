"""Stock folders with tiny random models, and a small SST-2 to score them on."""

import json
from pathlib import Path

import torch
from conftest import tiny_backbone
from safetensors.torch import load_file, save_file
from test_data import write
from transformers import AutoModelForSequenceClassification, AutoTokenizer

VOCABULARY = 129  # of the tiny encoder's tokenizer
ROWS = (("a WARM film", 1), ("A Dull Plot and more of it", 0), ("great music", 1), ("The Ending is ugly", 0))


def small_sst2(folder: Path) -> Path:
    """Write the task below `folder`; gives the data folder."""
    rows = [f"{text}\t{label}" for text, label in ROWS]
    for name in ("train", "dev"):
        write(folder / "data" / "SST-2" / f"{name}.tsv", "sentence\tlabel", *rows)
    write(folder / "data" / "SST-2" / "test.tsv", "index\tsentence", *(f"0\t{text}" for text, _ in ROWS))
    return folder / "data"


def edit(path: Path, change) -> None:
    """Rewrite a JSON file."""
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def model_folder(path: Path, encoder: str, model_type="bert", head="sequence", names=None, num_labels=2, **changes):
    """A stock folder with a random model, whose answers depend on the text, and the tokenizer of the tiny encoder.

    Args:
        names: of the classes; None where they have none.
    """
    if model_type == "roberta":
        changes = {"type_vocab_size": 1, "bos_token_id": 2, "eos_token_id": 3} | changes
    count = len(names) if names else num_labels
    model = tiny_backbone(model_type, head, "", count, torch.float32, vocab_size=VOCABULARY, **changes)
    if names:
        model.config.id2label = dict(enumerate(names))
        model.config.label2id = {str(name): index for index, name in enumerate(names)}
    model.save_pretrained(path)
    AutoTokenizer.from_pretrained(encoder).save_pretrained(path)
    return path


def name_as_tensorflow(folder: Path) -> None:
    """Give the layer norms of a model's file the names that TensorFlow has for them."""
    weights = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): tensor
        for name, tensor in load_file(folder / "model.safetensors").items()
    }
    assert sum(name.endswith("gamma") for name in weights) == 7
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def load_stock(folder):
    return AutoModelForSequenceClassification.from_pretrained(folder)
