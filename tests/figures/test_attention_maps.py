"""Attention maps: what is drawn and written, and what cannot be drawn."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import PNG, tiny_backbone, tiny_batch
from script_runs import message
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from figures import attention_maps
from models.asa import AsaModel
from models.checkpoints import save_checkpoint
from models.encoder_types import ENCODER_TYPES
from models.heads import named_labels

TEXT = "the film is not a warm drama"


def saved_models(encoder: str, folder: Path) -> tuple[AsaModel, torch.nn.Module]:
    """A random ASA model and a random plain one, in evaluation mode, saved as asa.bin and plain.bin."""
    config = AutoConfig.from_pretrained(encoder, **named_labels(("0", "1")))
    torch.manual_seed(5)
    plain, backbone = (
        AutoModelForSequenceClassification.from_config(config, attn_implementation="eager").float() for _ in range(2)
    )
    model = AsaModel(backbone)
    save_checkpoint(model, folder / "asa.bin")
    save_checkpoint(plain, folder / "plain.bin")
    return model.eval(), plain.eval()


def flags(encoder: str, folder: Path, *others: str) -> list[str]:
    given = ["--model_file", str(folder / "asa.bin"), "--load_model_path", encoder, "--task_name", "sst-2"]
    return [*given, "--text", TEXT, "--output_dir", str(folder / "out"), *others]


@pytest.mark.parametrize("model_type", ["albert", "bert", "distilbert", "electra", "roberta"])
def test_the_masked_units_are_those_of_the_adversaries(model_type):
    model = AsaModel(tiny_backbone(model_type, attention="eager")).eval()
    batch = tiny_batch(lengths=(9,))
    del batch["labels"]
    plain, adversarial = (attention_maps.attend(each, batch) for each in (model.backbone, model))
    assert plain.attention.shape == (3, 2, 9, 9)
    assert not plain.masked.any()
    for result in (plain, adversarial):
        assert np.allclose(result.attention.sum(-1), 1)

    with torch.no_grad(), model.adversarial_mode(batch["attention_mask"]):
        output = model.backbone(**batch, output_hidden_states=True)
    assert np.array_equal(adversarial.logits, output.logits[0])
    for layer, adversary in enumerate(model.adversaries):
        with torch.no_grad():
            keep = adversary(output.hidden_states[layer])[0] > 0
        expected = ~keep & keep.any(-1, keepdim=True)  # a row of which nothing is kept stays as it is
        assert np.array_equal(adversarial.masked[layer], expected)
        assert 0 < expected.float().mean() < 1
        assert (adversarial.attention[layer][:, expected] < 1e-6).all()
        assert (plain.attention[layer][:, expected] > 1e-6).any()

    first = AsaModel(model.backbone, layers=[0]).eval()  # the others have no adversary
    first.adversaries[0] = model.adversaries[0]
    masked = attention_maps.attend(first, batch).masked
    assert np.array_equal(masked[0], adversarial.masked[0])
    assert not masked[1:].any()

    budget = AsaModel(model.backbone, budget=0.3).eval()
    kept = 9 - round(0.3 * 9)
    assert (~attention_maps.attend(budget, batch).masked).sum(-1).tolist() == [[kept] * 9] * 3

    again = attention_maps.attend(model.backbone, batch)
    assert np.array_equal(again.attention, plain.attention)  # nothing of the adversarial pass is left in the model


def test_the_budget_of_a_model_is_that_of_its_run(encoder_folder, tmp_path):
    def budget(*others: str):
        return attention_maps.budget_of(attention_maps.parse_arguments(flags(encoder_folder, tmp_path, *others)))

    assert [budget(), budget("--asa_budget", "0.2")] == [None, 0.2]  # no run is beside it
    for method, trained in (("asa", None), ("asa_budget", 0.1)):
        (tmp_path / "results.json").write_text(json.dumps({"args": {"method": method, "asa_budget": 0.1}}))
        assert budget() == trained
        own = "--asa_budget 0.1" if trained else "--method asa"
        said = f"--asa_budget 0.2: {tmp_path / 'asa.bin'} was trained with {own}: leave the flag out"
        assert message(budget, "--asa_budget", "0.2") == said


@pytest.mark.parametrize("model_type", ENCODER_TYPES)
def test_the_masked_units_of_every_type_of_encoder(model_type):
    """They are those that get no attention, and within a window, where a layer has one."""
    model = AsaModel(tiny_backbone(model_type, attention="eager", dtype=torch.float32)).eval()
    batch = tiny_batch(lengths=(9,))
    del batch["labels"]
    plain, adversarial = (attention_maps.attend(each, batch) for each in (model.backbone, model))
    seen = (plain.attention > 1e-9).all(1)  # (N, L, L)
    assert seen.all() == (model_type != "modernbert")
    assert 0 < adversarial.masked.mean() < 1
    assert not (adversarial.masked & ~seen).any()
    assert np.array_equal(adversarial.masked, seen & (adversarial.attention < 1e-9).all(1))


@pytest.mark.parametrize("two_models", [False, True])
def test_what_is_drawn_and_written(two_models, encoder_folder, tmp_path, figures, capsys):
    model, plain = saved_models(encoder_folder, tmp_path)
    others = ["--layer", "1", "--head", "0", "--label_words", "bad", "good"]
    if two_models:
        others += ["--plain_model_file", str(tmp_path / "plain.bin")]
    attention_maps.main(flags(encoder_folder, tmp_path, *others))
    written = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert sorted(written) == ["asa_map.png", "attention_maps.png", "sa_map.png"]
    assert all(content.startswith(PNG) and len(content) < 300_000 for content in written.values())

    encoding = AutoTokenizer.from_pretrained(encoder_folder)(TEXT, return_tensors="pt")
    with torch.no_grad():
        left = (plain if two_models else model.backbone)(**encoding, output_attentions=True)
        clean = model.backbone(**encoding)
        with model.adversarial_mode():
            right = model.backbone(**encoding, output_attentions=True)
    masked = attention_maps.attend(model, encoding).masked[1]

    def words(output) -> str:
        chances = output.logits[0].softmax(-1)
        return f"{('bad', 'good')[chances.argmax()]} {chances.max():.2f}"

    titles = [
        f"Self-attention of the {'plain' if two_models else 'ASA'} model\nprediction: {words(left)}",
        f"Adversarial self-attention of the ASA model\nprediction: {words(clean)}, under the mask {words(right)}",
    ]
    both, only_left, only_right = figures
    assert both.get_suptitle() == "SST-2, layer 1 of 0 to 1, head 0"
    assert [line.partition(": ")[0] for line in capsys.readouterr().out.splitlines()] == [
        title.partition("\n")[0] for title in titles
    ]
    for figure, number, output in (
        (both, 0, left),
        (both, 1, right),
        (only_left, 0, left),
        (only_right, 0, right),
    ):
        axis, is_right = figure.axes[number], output is right
        (image,) = axis.get_images()
        assert np.allclose(image.get_array(), output.attentions[1][0, 0], atol=1e-6)
        assert image.get_clim()[1] == pytest.approx(max(o.attentions[1][0, 0].max().item() for o in (left, right)))
        assert axis.get_title() == titles[is_right]
        tokens = ["[CLS]", *TEXT.split(), "[SEP]"]
        for labels in (axis.get_xticklabels(), axis.get_yticklabels()):
            assert [label.get_text() for label in labels] == tokens
        hatched = {(patch.get_y() + 0.5, patch.get_x() + 0.5) for patch in axis.patches}
        assert hatched == (set(zip(*masked.nonzero(), strict=True)) if is_right else set())
        assert all(patch.get_hatch() for patch in axis.patches)


def test_by_default_the_mean_of_the_heads_where_most_is_masked(encoder_folder, tmp_path, unsaved):
    model, _ = saved_models(encoder_folder, tmp_path)
    attention_maps.main(flags(encoder_folder, tmp_path))
    result = attention_maps.attend(model, AutoTokenizer.from_pretrained(encoder_folder)(TEXT, return_tensors="pt"))
    layer = result.masked.sum((1, 2)).argmax()
    (image,) = unsaved[0].axes[1].get_images()
    assert np.allclose(image.get_array(), result.attention[layer].mean(0), atol=1e-6)
    assert unsaved[0].get_suptitle() == f"SST-2, layer {layer} of 0 to 1, mean of 2 heads"


def test_pairs_and_scores(encoder_folder, tmp_path, unsaved):
    """A regression has a score in place of a label."""
    config = AutoConfig.from_pretrained(encoder_folder, **named_labels(()))
    backbone = AutoModelForSequenceClassification.from_config(config).float()
    save_checkpoint(AsaModel(backbone), tmp_path / "asa.bin")
    attention_maps.main(flags(encoder_folder, tmp_path, "--text_b", "a film", "--task_name", "STS-B"))
    encoding = AutoTokenizer.from_pretrained(encoder_folder)(TEXT, "a film", return_tensors="pt")
    with torch.no_grad():
        score = backbone.eval()(**encoding).logits.item()
    assert unsaved[0].axes[0].get_title().endswith(f"prediction: score {score:.2f}")
    assert len(unsaved[0].axes[0].get_xticklabels()) == encoding["input_ids"].shape[1]


BAD_MAPS = {
    "no adversaries": (["--model_file", "plain.bin"], "--model_file plain.bin: it holds no adversaries; give a"),
    "folder": (["--model_file", "."], "--model_file .: a folder holds no adversaries; give a run's"),
    "no file": (["--model_file", "absent.bin"], "absent.bin: no such checkpoint"),
    "no plain model": (["--plain_model_file", "absent.bin"], "absent.bin: no such checkpoint"),
    "other plain model": (["--plain_model_file", "."], "--plain_model_file .: a folder without a config.json"),
    "other labels": (["--task_name", "MNLI", "--text_b", "x"], "asa.bin: a checkpoint of another shape: classifier."),
    "task": (["--task_name", "SST"], "--task_name SST: no such task; did you mean SST-2?"),
    "one sentence": (["--text_b", "x"], "--task_name SST-2: the task takes one sentence: leave out --text_b"),
    "a pair": (["--task_name", "RTE"], "--task_name RTE: the task takes a pair: give --text_b"),
    "too long": (["--text", "a " * 47], "--text: more than 48 tokens, which no picture shows legibly; shorten it"),
    "words": (["--label_words", "good"], "--label_words: SST-2 has 2 labels (0, 1)"),
    "layer": (["--layer", "2"], "--layer 2: the encoder has the layers 0 to 1"),
    "below": (["--layer", "-1"], "--layer -1: the encoder has the layers 0 to 1"),
    "head": (["--head", "2"], "--head 2: the encoder has the heads 0 to 1, or mean"),
    "no head": (["--head", "all"], "--head all: the encoder has the heads 0 to 1, or mean"),
}  # fmt: skip


def test_a_run_with_adversaries_in_some_layers(encoder_folder, tmp_path, unsaved):
    model, _ = saved_models(encoder_folder, tmp_path)
    model.adversaries[0] = None
    save_checkpoint(model, tmp_path / "asa.bin")
    loaded = attention_maps.load_asa(str(tmp_path / "asa.bin"), model.backbone.config)
    assert [adversary is None for adversary in loaded.adversaries] == [True, False]
    attention_maps.main(flags(encoder_folder, tmp_path))
    assert len(unsaved) == 3
    del model.adversaries[0]
    model.adversaries.extend([None, None, model.adversaries[0]])
    save_checkpoint(model, tmp_path / "asa.bin")
    said = message(attention_maps.main, flags(encoder_folder, tmp_path))
    assert said.endswith(
        "asa.bin: a checkpoint of another model: there is no layer 3: the encoder has the layers 0 to 1"
    )


@pytest.mark.parametrize("case", sorted(BAD_MAPS))
def test_maps_that_cannot_be_drawn(case, encoder_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    saved_models(encoder_folder, tmp_path)
    given, expected = BAD_MAPS[case]
    said = message(attention_maps.main, flags(encoder_folder, tmp_path, *given))
    assert expected in said
    assert not (tmp_path / "out").exists()
