"""`AsaTrainer`: the Hugging Face Trainer gives what a plain loop gives; what it refuses; adapters."""

import json
import runpy
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from asa_models import training_step
from children import run_both
from conftest import HEADS, tiny_backbone, tiny_batch
from torch import nn
from trainers import ROWS, batches, logged, rows, trainer_of
from transformers import TrainerCallback, TrainingArguments, get_scheduler

from models.asa import AsaModel
from models.baselines import RandomMask
from models.encoders import resolve
from models.trainer import ADVERSARIES, _sizes


def plain_loop(
    model: AsaModel, loss_of=lambda output, labels: output.loss, size: int = 4, adversary_rate: float = 1e-2
) -> list[float]:
    """The losses of eight steps with AdamW, and the gradient of either part clipped to a norm of 1."""
    groups = [
        {"params": [value for value in part.parameters() if (value.ndim > 1) == decays], "lr": rate}
        | {"weight_decay": 0.1 * decays}
        for part, rate in ((model.backbone, 1e-2), (model.adversaries, adversary_rate))
        for decays in (True, False)
    ]
    optimizer = torch.optim.AdamW(groups)
    scheduler = get_scheduler("linear", optimizer, 0, 2 * ROWS // size)
    losses = []
    for batch in batches("sequence", size) * 2:
        loss = loss_of(model.train()(**batch), batch["labels"])
        loss.backward()
        for part in (model.backbone, model.adversaries):
            nn.utils.clip_grad_norm_(part.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def assert_same_weights(model: nn.Module, expected: nn.Module, tolerance: float = 1e-9) -> None:
    found = model.state_dict()
    for name, value in expected.state_dict().items():
        # A key's bias has no gradient but rounding, which Adam scales up; nor has a bias that all choices share.
        if "self.key.bias" not in name:
            assert (found[name] - value).norm() <= tolerance * value.norm() + 1e-9, name


# --- what it computes ---


@pytest.mark.parametrize("one_forward", [False, True])
def test_it_is_a_plain_loop(one_forward, tmp_path):
    models = [AsaModel(tiny_backbone(), tau=0.2, one_forward=one_forward) for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    losses = plain_loop(models[1])
    trainer = trainer_of(models[0], tmp_path)
    trainer.train()
    assert logged(trainer, "loss") == pytest.approx(losses, rel=1e-6)
    assert_same_weights(*models)


def test_a_learning_rate_of_the_adversaries(tmp_path):
    models = [AsaModel(tiny_backbone(), tau=0.2) for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    losses = plain_loop(models[1], adversary_rate=3e-3)
    trainer = trainer_of(models[0], tmp_path, adversary_rate=3e-3)
    trainer.train()
    assert logged(trainer, "loss") == pytest.approx(losses, rel=1e-6)
    assert_same_weights(*models)

    metrics = trainer.evaluate()
    whole = batches("sequence", ROWS)[0]
    with torch.no_grad():
        plain = models[1].backbone.eval()(**whole)
    assert metrics["eval_loss"] == pytest.approx(plain.loss.item(), rel=1e-6)
    assert metrics["eval_accuracy"] == (plain.logits.argmax(-1) == whole["labels"]).double().mean().item()


def test_the_logs_have_the_parts_of_the_loss(tmp_path):
    model = AsaModel(tiny_backbone(), tau=0.2)
    expected = []
    for batch in batches("sequence", 4):
        found, output = training_step(model, batch)
        of_adversaries = [gradient for name, gradient in found.items() if name.startswith("adversaries")]
        norm = torch.stack([gradient.norm() for gradient in of_adversaries]).norm()
        expected.append([output.task_loss, output.divergence, output.penalty, output.keep_rate.mean(), norm])
    trainer = trainer_of(model, tmp_path, learning_rate=0.0, logging_steps=2, num_train_epochs=1)
    trainer.train()
    means = torch.tensor(expected).view(2, 2, 5).mean(1)
    for column, name in enumerate(("task_loss", "divergence", "penalty", "keep_rate", "adversary_grad_norm")):
        assert logged(trainer, name) == pytest.approx(means[:, column].tolist(), rel=1e-6), name


def test_the_logs_of_a_data_set_without_length(tmp_path):
    """Its end is found by asking for a batch that does not come."""
    figures = []
    for streamed in (False, True):
        torch.manual_seed(1)
        trainer = trainer_of(AsaModel(tiny_backbone()), tmp_path, max_steps=6, per_device_train_batch_size=8)
        if streamed:
            trainer.train_dataset = rows().to_iterable_dataset().remove_columns("text")
        trainer.train()
        figures.append([logged(trainer, name) for name in ("keep_rate", "penalty", "task_loss")])
    assert figures[1] == [pytest.approx(values) for values in figures[0]]


def test_the_logs_start_afresh_with_each_training(tmp_path):
    trainer = trainer_of(AsaModel(tiny_backbone(), tau=0.2), tmp_path, learning_rate=0.0, logging_steps=2, max_steps=3)
    trainer.train()
    first = {name: logged(trainer, name) for name in ("task_loss", "penalty", "keep_rate", "adversary_grad_norm")}
    trainer.train()
    assert {name: logged(trainer, name) for name in first} == first


@pytest.mark.parametrize("head", ["sequence", "token", "choice", "masked_lm"])
def test_accumulation_changes_nothing(head, tmp_path):
    """Also where the parts have unequal numbers of labels."""
    size, found = 2 if head == "choice" else 4, []
    for parts in (1, 2, size):
        model = AsaModel(tiny_backbone(head=head), tau=0.2)
        trainer = trainer_of(
            model, tmp_path, head=head, gradient_accumulation_steps=parts, per_device_train_batch_size=size // parts
        )
        trainer.train()
        found.append((model, trainer))
    (model, trainer), *others = found
    for other, accumulated in others:
        for name in ("loss", "task_loss", "divergence", "penalty", "grad_norm"):
            assert logged(accumulated, name) == pytest.approx(logged(trainer, name), rel=1e-6), name
        assert_same_weights(other, model, 1e-7)


@pytest.mark.parametrize("parts", [1, 2])
def test_label_smoothing(parts, tmp_path):
    models = [AsaModel(tiny_backbone(), tau=0.2) for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())

    def smoothed(output, labels):
        task = nn.functional.cross_entropy(output.logits, labels, label_smoothing=0.1)
        return task + output.divergence + 0.2**2 * output.penalty

    losses = plain_loop(models[1], smoothed)
    settings = {"gradient_accumulation_steps": parts, "per_device_train_batch_size": 4 // parts}
    trainer = trainer_of(models[0], tmp_path, label_smoothing_factor=0.1, **settings)
    trainer.train()
    assert logged(trainer, "loss") == pytest.approx(losses, rel=1e-6)
    assert_same_weights(*models, 1e-5)  # the library's smoothing is in float32


def test_a_loss_function_of_one_s_own(tmp_path):
    weight = torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64)
    models = [AsaModel(tiny_backbone(), tau=0.2) for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())

    def weighted(output, labels, num_items_in_batch=4):
        total = nn.functional.cross_entropy(output.logits, labels, weight, reduction="sum")
        return total / num_items_in_batch

    losses = plain_loop(
        models[1], lambda output, labels: weighted(output, labels) + output.divergence + 0.2**2 * output.penalty
    )
    settings = {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 2}
    trainer = trainer_of(models[0], tmp_path, compute_loss_func=weighted, **settings)
    trainer.train()
    assert logged(trainer, "loss") == pytest.approx(losses, rel=1e-6)


def test_a_part_without_numbers_is_a_whole_batch(tmp_path):
    """As a trainer of one's own may pass its inputs on."""
    trainer = trainer_of(AsaModel(tiny_backbone(), tau=0.2), tmp_path)
    loss = trainer.compute_loss(trainer.model.train(), tiny_batch())
    assert loss.item() == pytest.approx(trainer.model(**tiny_batch()).loss.item(), rel=1e-12)


def test_two_processes_are_one(tmp_path):
    """Also where they have unequal numbers of labels, in training as in evaluation."""
    import two_trainers

    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    two_trainers.main([str(one), "4"])
    statuses, said = run_both("two_trainers", [str(two), "2"], tmp_path)
    assert statuses == [0, 0], said
    expected, found = (json.loads((folder / "logs.json").read_text()) for folder in (one, two))
    for name in ("loss", "grad_norm", "adversary_grad_norm", "eval_loss"):
        figures = [[record[name] for record in records if name in record] for records in (found, expected)]
        assert len(figures[1]) == (1 if name == "eval_loss" else 2)
        assert figures[0] == pytest.approx(figures[1], rel=1e-6), name
    expected, found = (torch.load(folder / "weights.pt") for folder in (one, two))
    for name, value in expected.items():
        if "self.key.bias" not in name:  # whose gradient is rounding alone
            torch.testing.assert_close(found[name], value, rtol=1e-8, atol=1e-10)


class KeepNorms(TrainerCallback):
    def __init__(self):
        self.norms = []

    def on_pre_optimizer_step(self, args, state, control, model, **_):
        parts = [model.backbone, model.adversaries]
        self.norms.append([nn.utils.get_total_norm([each.grad for each in part.parameters()]) for part in parts])


@pytest.mark.parametrize("max_grad_norm", [1.0, 0.0])
def test_the_adversaries_are_clipped_apart(max_grad_norm, tmp_path):
    model, callback = AsaModel(tiny_backbone(), tau=0.2), KeepNorms()
    trainer = trainer_of(model, tmp_path, callback, max_grad_norm=max_grad_norm, num_train_epochs=1, learning_rate=0.0)
    trainer.train()
    of_encoder, of_adversaries = logged(trainer, "grad_norm"), logged(trainer, "adversary_grad_norm")
    for step, norms in enumerate(callback.norms):
        before = torch.tensor([of_encoder[step], of_adversaries[step]])
        assert before[1] > 10
        after = before.clamp(max=max_grad_norm) if max_grad_norm else before
        assert torch.stack(norms).tolist() == pytest.approx(after.tolist(), rel=1e-5)


def test_a_gradient_that_overflows_is_not_in_the_mean(tmp_path):
    model, calls = AsaModel(tiny_backbone(), tau=0.2), iter(range(1, 100))
    short = {"num_train_epochs": 1, "learning_rate": 0.0}
    each = trainer_of(model, tmp_path, **short)
    each.train()
    weight = model.adversaries[0].query.weight
    weight.register_hook(lambda gradient: gradient * float("inf") if next(calls) == 4 else gradient)
    together = trainer_of(model, tmp_path, logging_steps=4, **short)
    together.train()
    norms = logged(each, "adversary_grad_norm")
    assert logged(together, "adversary_grad_norm") == pytest.approx([sum(norms[:3]) / 3], rel=1e-6)
    assert logged(together, "task_loss") == pytest.approx([sum(logged(each, "task_loss")) / 4], rel=1e-6)


def test_lower_precision(tmp_path):
    losses = []
    for settings in ({}, {"bf16": True}):
        model = AsaModel(tiny_backbone(dtype=torch.float32, initializer_range=0.1), tau=0.2)
        trainer = trainer_of(model, tmp_path, num_train_epochs=1, learning_rate=1e-3, **settings)
        trainer.train()
        losses.append(logged(trainer, "task_loss"))
    assert losses[1] == pytest.approx(losses[0], rel=0.05)
    assert losses[1] != losses[0]


def test_checkpointed_activations(tmp_path):
    models, losses = [], []
    for settings in ({}, {"activation_checkpointing": True}):
        models.append(AsaModel(tiny_backbone(hidden_dropout_prob=0.1), tau=0.2))
        trainer = trainer_of(models[-1], tmp_path, **settings)
        trainer.train()
        losses.append(logged(trainer, "loss"))
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    assert_same_weights(*models)
    assert models[1].backbone.is_activation_checkpointing


def test_random_masks_can_be_trained(tmp_path):
    trainer = trainer_of(RandomMask(tiny_backbone(), keep_rate=0.5), tmp_path, save_strategy="epoch")
    trainer.train()
    assert "penalty" not in trainer.state.log_history[0]
    assert 0.3 < logged(trainer, "keep_rate")[0] < 0.7


def test_random_masks_can_be_evaluated(tmp_path):
    trainer = trainer_of(RandomMask(tiny_backbone(), keep_rate=0.7), tmp_path)
    assert trainer.evaluate()["eval_loss"] > 0
    assert trainer.evaluate().keys() >= {"eval_accuracy"}


def test_a_row_budget_can_be_trained(tmp_path):
    trainer = trainer_of(AsaModel(tiny_backbone(), budget=0.5), tmp_path, save_strategy="epoch")
    before = [parameter.clone() for parameter in trainer.model.adversaries.parameters()]
    trainer.train()
    assert "penalty" not in trainer.state.log_history[0]
    assert 0.4 < logged(trainer, "keep_rate")[0] < 0.6
    assert logged(trainer, "divergence")[0] > 0
    moved = [not torch.equal(*pair) for pair in zip(before, trainer.model.adversaries.parameters(), strict=True)]
    assert any(moved)


def test_a_step_without_a_label_is_finite(tmp_path):
    trainer = trainer_of(AsaModel(tiny_backbone(head="token"), tau=0.2), tmp_path, head="token", num_train_epochs=1)
    labels = trainer.train_dataset["labels"]
    none = [[-100] * len(row) if number < 4 else row for number, row in enumerate(labels)]
    trainer.train_dataset = trainer.train_dataset.remove_columns("labels").add_column("labels", none)
    trainer.train()
    assert logged(trainer, "task_loss")[0] == 0
    assert all(value.isfinite().all() for value in trainer.model.state_dict().values())


def test_clipping_is_of_gradients_without_the_loss_scale(tmp_path):
    model = AsaModel(tiny_backbone(dtype=torch.float32), tau=0.2)
    trainer = trainer_of(model, tmp_path)
    training_step(model, tiny_batch())
    parts = model.backbone, model.adversaries
    norms = [nn.utils.get_total_norm([value.grad for value in part.parameters()]).item() for part in parts]
    model.zero_grad()
    accelerator = trainer.accelerator
    accelerator.scaler, accelerator.native_amp = torch.amp.GradScaler("cpu", init_scale=1024.0), True
    accelerator.state._mixed_precision, accelerator._optimizers = "fp16", [torch.optim.SGD(model.parameters(), lr=0.0)]
    accelerator.scaler.scale(model(**tiny_batch()).loss).backward()
    found = [trainer._clip(1e9).item(), trainer._sums["adversary_grad_norm"].item()]
    assert found == pytest.approx(norms, rel=1e-4)


def test_an_optimizer_of_one_s_own_stays_as_it_is(tmp_path):
    model = AsaModel(tiny_backbone(), tau=0.2)
    trainer = trainer_of(model, tmp_path, adversary_rate=3e-3, num_train_epochs=1)
    trainer.optimizer = own = torch.optim.SGD(model.parameters(), lr=1e-3)
    trainer.train()
    assert len(own.param_groups) == 1


def test_every_target_of_a_regression_counts():
    assert _sizes(torch.tensor([-100.0, 0.5])).tolist() == [2, 2]
    assert _sizes(torch.tensor([[-100, 1], [2, -100]])).tolist() == [2, 2]


# --- what is refused ---


def test_what_the_trainer_refuses(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="trains an AsaModel, not BertForSequenceClassification: give it AsaModel"):
        trainer_of(tiny_backbone(), tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(TrainingArguments, "n_gpu", 2)
        with pytest.raises(ValueError, match="2 GPUs in one process do not work with ASA: start a process for each"):
            trainer_of(AsaModel(tiny_backbone()), tmp_path)
    with pytest.raises(ValueError, match="does not work with neftune_noise_alpha: leave it out"):
        trainer_of(AsaModel(tiny_backbone()), tmp_path, neftune_noise_alpha=5.0)
    quantised = tiny_backbone()
    quantised.is_quantized, quantised.hf_quantizer = True, SimpleNamespace(is_trainable=True)
    with pytest.raises(ValueError, match="cannot perform fine-tuning on purely quantized models"):
        trainer_of(AsaModel(quantised), tmp_path)
    monkeypatch.delattr("transformers.Trainer._clip_grad_norm")
    with pytest.raises(RuntimeError, match="whose Trainer has no _clip_grad_norm: use"):
        trainer_of(AsaModel(tiny_backbone()), tmp_path)


# --- adapters ---


@pytest.mark.parametrize("model_type", ["bert", "deberta-v2"])
def test_adapters_of_peft(model_type, tmp_path):
    """The backbone is frozen, the adversaries are trained, and the adapter is saved alone."""
    peft = pytest.importorskip("peft")
    target = ["query_proj"] if model_type == "deberta-v2" else ["query", "value"]
    settings = peft.LoraConfig(task_type="SEQ_CLS", r=2, target_modules=target)
    adapted = peft.get_peft_model(tiny_backbone(model_type), settings)
    model = AsaModel(adapted, tau=0.2)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    each_epoch = {"save_strategy": "epoch", "eval_strategy": "epoch", "load_best_model_at_end": True}
    trainer = trainer_of(model, tmp_path, **each_epoch)
    trainer.train()
    for name, value in model.state_dict().items():
        trained = name.startswith("adversaries") or "lora_" in name or "modules_to_save" in name
        assert torch.equal(value, before[name]) is not trained or name.endswith("key.bias"), name
    best = Path(trainer.state.best_model_checkpoint)
    assert {"adapter_model.safetensors", ADVERSARIES} <= {path.name for path in best.iterdir()}
    assert not (best / "model.safetensors").exists()
    again = peft.PeftModel.from_pretrained(tiny_backbone(model_type), best).eval()
    assert torch.equal(again(**tiny_batch()).logits, model.eval()(**tiny_batch()).logits)
    resumed = AsaModel(peft.get_peft_model(tiny_backbone(model_type), settings), tau=0.2)
    trainer_of(resumed, tmp_path, **each_epoch).train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    assert_same_weights(resumed, model)
    assert model.detach() is adapted


def test_prompt_learning_is_refused():
    peft = pytest.importorskip("peft")
    settings = peft.PromptTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=2)
    with pytest.raises(ValueError, match="prompt learning adds tokens"):
        AsaModel(peft.get_peft_model(tiny_backbone(dtype=torch.float32), settings))


# --- the script of the documentation ---


def test_the_script_of_the_documentation(encoder_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(Path(__file__).parent.parent.parent / "docs"))
    import own_trainer

    monkeypatch.setattr(own_trainer, "ROWS", {"train": 64, "dev": 8, "shifted": 8})
    own_trainer.main(["--encoder", encoder_folder, "--output_dir", str(tmp_path)])
    printed = capsys.readouterr().out.splitlines()
    assert printed[-1] == f"{tmp_path / 'checkpoint-2'}: the model, and {ADVERSARIES} beside it"
    assert [line[1:9] for line in printed[-5:-1]] == [" (label "] * 4
    assert HEADS["sequence"].from_pretrained(tmp_path / "checkpoint-2").config.num_labels == 2
    sys.modules.pop("own_trainer")


def test_the_script_of_the_documentation_says_what_is_missing(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ASA_CACHE_DIR", str(tmp_path))
    resolve.cache_clear()
    script = Path(__file__).parent.parent.parent / "docs" / "own_trainer.py"
    monkeypatch.setattr(sys, "argv", [script.name, "--encoder", "all-mpnet-base-v2"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(script), run_name="__main__")
    assert ended.value.code == 2
    advice = "fetch it with `python -m models.fetch all-mpnet-base-v2`, or give a folder"
    assert capsys.readouterr().err == f"own_trainer.py: error: --encoder all-mpnet-base-v2: {advice}\n"


def test_a_cross_encoder_of_sentence_transformers_is_trained_in_place(encoder_folder, tmp_path):
    library = pytest.importorskip("sentence_transformers", reason="sentence-transformers is not installed")
    encoder = library.CrossEncoder(encoder_folder, num_labels=3, device="cpu")
    pairs, settings = [("a warm film", "it is good"), ("a dull plot", "fine")], {"activation_fn": nn.Identity()}
    before = encoder.predict(pairs, **settings)
    model = AsaModel(encoder.transformers_model)
    trainer_of(model, tmp_path).train()
    backbone = model.detach().eval()
    batch = encoder.tokenizer(*map(list, zip(*pairs, strict=True)), padding=True, return_tensors="pt")
    with torch.inference_mode():
        expected = backbone(**batch).logits
    found = encoder.predict(pairs, **settings)
    assert found == pytest.approx(expected.numpy(), abs=1e-5)
    assert abs(found - before).max() > 1e-2
    encoder.save_pretrained(str(tmp_path / "saved"))
    again = library.CrossEncoder(str(tmp_path / "saved"), device="cpu").predict(pairs, **settings)
    assert again == pytest.approx(found, abs=1e-5)
