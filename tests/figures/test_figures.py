"""The figures: what the maps and curves hold, what is written, and what cannot be drawn."""

import contextlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import tiny_backbone, tiny_batch
from matplotlib.figure import Figure
from recorded_runs import write_run as write_finished_run
from script_runs import message
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from figures import adversary as adversary_figure
from figures import attention_maps, differences, drawing, training_curves
from models.asa import AsaModel
from models.checkpoints import save_checkpoint
from models.encoder_types import ENCODER_TYPES
from models.heads import named_labels

TEXT = "the film is not a warm drama"
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def figures(monkeypatch) -> list:
    """The figures that a program has drawn, beside their files."""
    drawn = []

    @contextlib.contextmanager
    def picture(*arguments):
        with drawing.picture(*arguments) as figure:
            yield figure
            drawn.append(figure)

    for program in (adversary_figure, attention_maps, differences, training_curves):
        monkeypatch.setattr(program, "picture", picture)
    return drawn


@pytest.fixture
def unsaved(monkeypatch, figures) -> list:
    """The same, where the files are not looked at, and stay empty: a picture takes half a second."""
    monkeypatch.setattr(Figure, "savefig", lambda self, path, **_: path.touch())
    return figures


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


# --- attention maps ---


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


# --- training curves ---


def write_run(folder: Path, method: str = "asa", seed: int = 1, metrics: str | None = None, **own) -> Path:
    """A run of four logged steps and two epochs, of an encoder with two layers."""
    folder.mkdir(parents=True)
    windows = [{"step": step, "train_loss": 1 / step} for step in (10, 20, 30, 40)]
    if method == "asa":
        for row, window in enumerate(windows):
            window.update(divergence=row / 10, keep_rate=[0.5 + row / 10, 1.0])
    epochs = [
        {"global_step": step, "eval_score": score, "metrics": {"accuracy": score}}
        for step, score in ((20, 80.0), (40, 90.0))
    ]
    settings = {"task_name": "SST-2", "method": method, "seed": seed, **own}
    (folder / "results.json").write_text(json.dumps({"args": settings, "epochs": epochs}))
    lines = "".join(json.dumps(window) + "\n" for window in windows)
    (folder / "metrics.jsonl").write_text(lines if metrics is None else metrics)
    return folder


def test_long_labels_stay_within_the_picture(tmp_path, unsaved, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folders = [write_run(Path("a_long_name_of_a_run_" * 2 + name)) for name in ("one", "two")]
    training_curves.main([*map(str, folders), "--output", "curves.png"])
    (figure,) = unsaved
    figure.draw_without_rendering()
    for text in (*figure.legends, *(axis.title for axis in figure.axes)):
        box = text.get_window_extent()
        assert 0 <= box.x0 <= box.x1 <= figure.bbox.x1
    counts = [training_curves.legend_columns(["SST-2, asa, seed 1"] * count) for count in range(1, 6)]
    assert counts == [1, 2, 3, 2, 3]


def test_curves_of_several_runs(tmp_path, figures):
    runs = [write_run(tmp_path / "1"), write_run(tmp_path / "2", "naive"), write_run(tmp_path / "3", seed=2)]
    training_curves.main([*map(str, runs), "--output", str(tmp_path / "curves" / "all.png")])
    assert (tmp_path / "curves" / "all.png").read_bytes().startswith(PNG)
    (figure,) = figures
    names = ["SST-2, asa, seed 1", "SST-2, naive, seed 1", "SST-2, asa, seed 2"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == names
    loss, divergence, score, first, second, _ = figure.axes[:6]
    curves = [[list(map(tuple, line.get_xydata())) for line in axis.lines] for axis in (loss, divergence, score)]
    assert curves[0] == [[(step, 1 / step) for step in (10, 20, 30, 40)]] * 3
    with_divergence = [(10, 0.0), (20, 0.1), (30, 0.2), (40, 0.3)]
    assert curves[1] == [with_divergence, [], with_divergence]
    assert curves[2] == [[(20, 80.0), (40, 90.0)]] * 3
    for axis, name in ((first, names[0]), (second, names[2])):
        assert axis.get_title() == f"keep rate: {name}"
        assert [list(line.get_ydata()) for line in axis.lines] == [[0.5, 0.6, 0.7, 0.8], [1.0] * 4]
    assert score.get_title() == "score after each epoch: accuracy"
    colours = [line.get_color() for line in loss.lines]
    assert len(set(colours)) == 3


def test_a_torn_last_line_and_a_step_logged_twice(tmp_path, caplog):
    lines = ['{"step": 10, "train_loss": 3.0}', '{"step": 20, "train_loss": 2.0}', '{"step": 10, "train_loss": 1.0}']
    run = training_curves.read_run(write_run(tmp_path / "run", metrics="\n".join([*lines, '{"step": 30, "tra'])))
    assert run.curve("train_loss", run.windows) == ([10, 20], [1.0, 2.0])
    assert caplog.messages == [f"{tmp_path}/run/metrics.jsonl, line 4: cut short, left out"]
    assert run.curve("keep_rate", run.windows) == ([], [])


@pytest.mark.parametrize(("last", "drawn"), [(24, [10, 20]), (25, [10, 20, 25])])
def test_a_last_record_of_few_steps_is_left_out(last, drawn, tmp_path):
    lines = [f'{{"step": {step}, "learning_rate": 0.1, "train_loss": 1.0}}' for step in (10, 20, last)]
    lines.append('{"step": 19, "liveness": 2.0}')
    run = training_curves.read_run(write_run(tmp_path / "run", metrics="\n".join(lines)))
    assert run.curve("train_loss", run.windows)[0] == drawn


def test_runs_of_the_same_name_are_told_apart(tmp_path):
    folders = [write_run(tmp_path / name) for name in ("a", "b")]
    assert [run.label for run in training_curves.read_runs(folders)] == [
        f"SST-2, asa, seed 1 ({tmp_path}/{name})" for name in ("a", "b")
    ]


def test_runs_of_one_method_are_told_apart_by_its_settings(tmp_path):
    first = write_run(tmp_path / "a", tau=0.5, protocol="corrected")
    second = write_run(tmp_path / "b", tau=0.1, protocol="corrected", asa_layers=[2, 5])
    labels = [run.label for run in training_curves.read_runs([first, second])]
    assert labels == ["SST-2, asa, seed 1, tau 0.5", "SST-2, asa, seed 1, tau 0.1, asa_layers 2 5"]


def test_keep_rates_have_the_numbers_of_their_layers(tmp_path, unsaved):
    folder = write_run(tmp_path / "run", asa_layers=[2, 5])
    training_curves.main([str(folder), "--output", str(tmp_path / "curves.png")])
    panel, bar = unsaved[0].axes[3:]
    assert [line.get_label() for line in panel.lines] == ["layer 2", "layer 5"]
    assert bar.get_ylim() == (-0.5, 5.5)


def test_a_run_without_evaluation_or_adversaries(tmp_path, unsaved):
    folder = write_run(tmp_path / "run", "naive")
    results = json.loads((folder / "results.json").read_text())
    results["epochs"] = [{"global_step": 40, "eval_score": None, "metrics": {}}]
    (folder / "results.json").write_text(json.dumps(results))
    training_curves.main([str(folder), "--output", str(tmp_path / "curves.png")])
    loss, divergence, score, empty = unsaved[0].axes
    assert [text.get_text() for text in divergence.texts] == ["none of these runs has one"]
    assert (len(loss.lines), score.lines[0].get_xydata().size, empty.axison) == (1, 0, False)
    assert score.get_title() == "score after each epoch"


def test_what_is_no_run(tmp_path):
    def said(folder) -> str:
        return message(training_curves.main, [str(folder), "--output", str(tmp_path / "curves.png")])

    assert said(tmp_path / "absent").endswith(
        "results.json: no such file; give the output folder of a run that has ended an epoch"
    )
    torn = write_run(tmp_path / "torn", metrics='{"step": 10}\n{"st\n{"step": 30}\n')
    assert said(torn).endswith("metrics.jsonl, line 2: not a record of a training step")
    for content in ("[]", "{", '{"args": {}, "epochs": []}', '{"args": {"task_name": "x"}, "epochs": [1]}'):
        (torn / "results.json").write_text(content)
        assert said(torn).endswith("results.json: not the results file of a run")
    assert not (tmp_path / "curves.png").exists()


def test_differences_to_plain_fine_tuning(tmp_path, figures):
    for seed, score in ((1, 90.0), (2, 91.0)):
        write_finished_run(tmp_path / "grid", "naive", seed, [score])
        write_finished_run(tmp_path / "grid", "asa", seed, [99.0, score + seed])
        write_finished_run(tmp_path / "grid", "rdrop", seed, [score - 19 - seed], rdrop_alpha=2.0)
        write_finished_run(tmp_path / "grid", "asa", seed, [score], tau=0.1, name=f"ablation{seed}")
        for method, of_cola in (("naive", 50.0), ("smart", 52.0)):
            write_finished_run(tmp_path / "other", method, seed, [of_cola], task_name="CoLA", load_model_path="other")
    write_finished_run(tmp_path / "grid", "r3f", 1, [95.0])  # one seed is no row
    folders = [str(tmp_path / name) for name in ("grid", "other")]
    differences.main([*folders, "--points", "7", "--output", str(tmp_path / "new" / "all.png")])
    assert (tmp_path / "new" / "all.png").read_bytes().startswith(PNG)
    axis = figures[0].axes[0]
    labels = ["", "asa", "rdrop, alpha 2", "", "smart"]
    assert [label.get_text() for label in axis.get_yticklabels()] == labels
    assert {(text.get_position()[1], text.get_text()) for text in axis.texts} == {
        (0, "SST-2 dev: accuracy; bert-base-uncased, bf16"),
        (1, "+1.50 [-4.85, +7.85], n 2"),  # 12.706, of one degree of freedom, times a standard error of 0.5
        (2, "-20.50 [-26.85, -14.15], n 2"),
        (3, "CoLA dev: accuracy; other, bf16"),
        (4, "+2.00, n 2"),
    }
    drawn = {place: [] for place in (1, 2, 4)}
    for line in axis.lines:
        if line.get_ydata()[0] in drawn:
            drawn[line.get_ydata()[0]].append((line.get_marker(), sorted(map(float, line.get_xdata()))))
    assert drawn[1] == [("|", [1, 2]), ("None", pytest.approx([-4.853, 7.853], abs=1e-3)), ("o", [1.5]), (">", [7.0])]
    assert drawn[2][-1] == ("<", [-7.0])  # which is where the axis ends
    assert drawn[4] == [("|", [2, 2]), ("v", [2])]


def test_a_row_that_predicts_one_class_is_named_and_not_drawn(tmp_path, unsaved, caplog):
    """By Matthews' correlation, and by F1 beside accuracy; accuracy alone does not tell."""
    caplog.set_level("INFO", "asa")
    majority = {"f1": 80.0, "accuracy": 200 / 3}  # 2 a / (1 + a) of two thirds
    for seed in (1, 2):
        for method, score, best in (
            ("naive", 20.0, 20.0),
            ("freelb", 0.0 if seed == 1 else -3.0, 5.0),
            ("smart", 0.0 if seed == 1 else 1.0, 1.0),
        ):
            write_finished_run(tmp_path / "CoLA", method, seed, [best, score], task_name="CoLA")
        write_finished_run(tmp_path / "SST-2", "naive", seed, [50.0])
        write_finished_run(tmp_path / "SST-2", "asa", seed, [50.0])
        for method, metrics in (
            ("naive", {"f1": 82.0, "accuracy": 70.0}),
            ("rdrop", majority),
            ("r3f", majority if seed == 1 else majority | {"accuracy": 66.0}),
            ("asa", {"f1": 100.0, "accuracy": 100.0}),
        ):
            folder = write_finished_run(tmp_path / "MRPC", method, seed, [metrics["f1"]], task_name="MRPC")
            results = json.loads((folder / "results.json").read_text())
            results["epochs"][0]["metrics"] = metrics
            (folder / "results.json").write_text(json.dumps(results))
    output = str(tmp_path / "all.png")
    differences.main([*(str(tmp_path / name) for name in ("CoLA", "SST-2", "MRPC")), "--output", output])
    axis = unsaved[0].axes[0]
    said = "not drawn, as every seed is no better than one class throughout: freelb on CoLA; rdrop on MRPC"
    assert [label.get_text() for label in axis.get_yticklabels()] == ["", "smart", "", "asa", "", "asa", "r3f"]
    assert axis.get_xlabel().replace("\n", " ") == f"{differences.AXIS} {said}"
    assert caplog.messages[-1] == f"4 rows: {output}; {said}"


def test_a_row_that_is_not_drawn_has_its_encoder_if_there_are_several(tmp_path, caplog):
    caplog.set_level("INFO", "asa")
    for seed in (1, 2):
        for encoder, score in (("small", 10.0), ("large", 0.0)):
            for method, given in (("naive", 20.0), ("freelb", score)):
                write_finished_run(tmp_path / encoder, method, seed, [given], task_name="CoLA", load_model_path=encoder)
    differences.main([str(tmp_path / "small"), str(tmp_path / "large"), "--output", str(tmp_path / "all.png")])
    assert caplog.messages[-1].endswith(
        "; not drawn, as every seed is no better than one class throughout: freelb on CoLA (large, bf16)"
    )


def test_nothing_but_rows_that_predict_one_class(tmp_path):
    for seed in (1, 2):
        write_finished_run(tmp_path / "grid", "naive", seed, [20.0], task_name="CoLA")
        write_finished_run(tmp_path / "grid", "freelb", seed, [0.0], task_name="CoLA")
    said = message(differences.main, [str(tmp_path / "grid"), "--output", str(tmp_path / "all.png")])
    assert said == (
        f"{tmp_path}/grid: nothing to draw (not drawn, as every seed is no better than one class"
        " throughout: freelb on CoLA)"
    )
    assert not (tmp_path / "all.png").exists()


def test_differences_want_two_seeds_of_both(tmp_path):
    write_finished_run(tmp_path / "grid", "naive", 1, [90.0])
    for seed in (1, 2):
        write_finished_run(tmp_path / "grid", "asa", seed, [91.0])
    said = message(differences.main, [str(tmp_path / "grid"), "--output", str(tmp_path / "all.png")])
    assert said == f"{tmp_path}/grid: no method has two seeds in common with plain fine-tuning"
    assert not (tmp_path / "all.png").exists()


# --- why the masks open ---


def measured(folder: Path, name: str, **changes) -> Path:
    """A file as `benchmarks.adversary` writes it: ASA, ASA at another learning rate, and the row budget."""

    def run(tau, budget, rate: float) -> dict:
        layers = [{"ratio": 40.0 * tau if tau else 0.0, "penalty_cosine": 0.9 if tau else None}] * 2
        layers = [layer | {"divergence_cosine": 0.1 * number} for number, layer in enumerate(layers)]
        states = [{"step": step, "liveness": 2.0 if step else None, "layers": layers} for step in (0, 2)]
        setting = {"tau": tau, "budget": budget, "learning_rate": rate, "seed": 42}
        return {"setting": setting, "states": states, "keep_rate": [[0.5, 0.7], [0.6, 1.0]], "opened": [None, 1]}

    runs = [run(0.5, None, 2e-5), run(0.5, None, 4e-5), run(None, 0.1, 2e-5)]
    path = folder / f"{name}.json"
    path.write_text(json.dumps({"args": {"load_model_path": name}, "runs": runs} | changes))
    return path


def test_the_panels_hold_what_was_measured(tmp_path, unsaved):
    paths = [str(measured(tmp_path, name)) for name in ("small", "base")]
    adversary_figure.main([*paths, "--output", str(tmp_path / "out" / "adversary.png")])
    assert (tmp_path / "out" / "adversary.png").exists()
    [figure] = unsaved
    curves = [[line.get_ydata() for line in axis.lines] for axis in figure.axes]
    assert [list(curve) for curve in curves[0]] == [[20.0, 20.0], [], [20.0, 20.0], [], [1, 1]]
    assert [list(curve) for curve in curves[1][:4]] == [[0.9, 0.9], [0.0, 0.1], [], [0.0, 0.1]]
    assert [list(curve) for curve in curves[2]] == [pytest.approx([0.6, 0.8])] * 4
    assert [list(curve) for curve in curves[3]] == [[2.0]] * 4 + [[1, 1]]
    lines = figure.axes[3].lines[:4]
    labels = [line.get_label() for line in lines]
    assert labels == ["small, tau 0.5", "small, row budget 0.1", "base, tau 0.5", "base, row budget 0.1"]
    assert len({(line.get_color(), line.get_linestyle()) for line in lines}) == 4
    assert [list(line.get_xdata()) for line in lines] == [[2]] * 4  # at step 0 there is none
    assert [list(line.get_xdata()) for line in figure.axes[2].lines] == [[0, 1]] * 4


def test_seeds_of_a_file_can_be_told_apart(tmp_path, unsaved):
    path = measured(tmp_path, "small")
    found = json.loads(path.read_text())
    again = [run | {"setting": run["setting"] | {"seed": 13}} for run in found["runs"]]
    path.write_text(json.dumps(found | {"runs": found["runs"] + again}))
    adversary_figure.main([str(path), "--output", str(tmp_path / "adversary.png")])
    lines = unsaved[0].axes[3].lines[:4]
    assert [line.get_label() for line in lines] == [
        *("small, tau 0.5, seed 42", "small, row budget 0.1, seed 42"),
        *("small, tau 0.5, seed 13", "small, row budget 0.1, seed 13"),
    ]
    assert len({(line.get_color(), line.get_linestyle()) for line in lines}) == 4


@pytest.mark.parametrize("content", ["{", "{}", '{"args": {"load_model_path": "a"}, "runs": []}'])
def test_files_that_are_not_the_benchmark_s(content, tmp_path, figures):
    path = tmp_path / "other.json"
    path.write_text(content)
    said = message(adversary_figure.main, [str(path), "--output", str(tmp_path / "x.png")])
    assert said == f"{path}: not a file that python -m benchmarks.adversary has written"
    assert figures == []
