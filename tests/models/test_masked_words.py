"""Masked language modelling: predictions of the masked words alone, and the divergence over them."""

import pytest
import torch
from asa_models import training_step
from conftest import SIZES, relative_error, tiny_backbone, tiny_batch
from torch.nn import functional as F

from models.asa import PROTOCOLS, AsaModel
from models.baselines import RDrop
from models.divergence import divergence
from models.encoder_types import predicts_masked_words
from models.masked_words import predict_given_words
from training import accumulation
from training.loop import _size

LENGTHS = (9, 4, 6, 2)
PLACES = ((1, 3, 8), (0, 2), (4, 5), (1,))  # of the masked words in each row


def masked_batches() -> tuple[dict, dict]:
    """One batch in two forms: labels (B, L) at the places of the masked words, and `words` with labels (B, M)."""
    batch = tiny_batch("masked_lm", lengths=LENGTHS)
    full = torch.full_like(batch["labels"], -100)
    words, labels = torch.zeros(4, 3, dtype=torch.long), torch.full((4, 3), -100)
    for row, places in enumerate(PLACES):
        for number, place in enumerate(places):
            words[row, number] = place
            labels[row, number] = full[row, place] = 5 + (7 * row + 11 * place) % 50
    return batch | {"labels": full}, batch | {"labels": labels, "words": words}


@pytest.mark.parametrize("model_type", SIZES)
def test_every_encoder_gives_the_same_for_the_words_alone(model_type):
    """Loss and logits of the stock model, and all that ASA makes of them."""
    full, picked = masked_batches()
    backbone = tiny_backbone(model_type, "masked_lm").eval()
    assert predicts_masked_words(backbone)
    expected = backbone(**full)
    predict_given_words(backbone)
    found = backbone(**picked)
    assert found.logits.shape == (4, 3, 60)
    assert relative_error(found.loss, expected.loss) < 1e-6  # some of the library take it in float32
    for row, places in enumerate(PLACES):
        assert relative_error(found.logits[row, : len(places)], expected.logits[row, list(places)]) < 1e-12
    again = backbone(**full)  # a call without `words` is as ever
    assert torch.equal(again.logits, expected.logits)
    if model_type in ("bert", "albert", "distilbert", "deberta-v2"):
        for one_forward in (False, True):
            model = AsaModel(backbone, one_forward=one_forward)
            gradients, output = training_step(model, full)
            gradients = {name: gradient.clone() for name, gradient in gradients.items()}
            of_words, alone = training_step(model, picked)
            for name in ("loss", "task_loss", "divergence", "penalty", "keep_rate"):
                assert relative_error(alone[name], output[name]) < 1e-11, name
            for name, gradient in gradients.items():
                assert (of_words[name] - gradient).norm() < 1e-9 * gradient.norm() + 1e-13, name


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_divergence_is_a_mean_over_masked_words(protocol):
    """By hand, word by word; what the two passes say of other words does not count."""
    full, _ = masked_batches()
    output = AsaModel(tiny_backbone(head="masked_lm"), protocol=protocol).train()(**full)
    by_hand = []
    for row, places in enumerate(PLACES):
        for place in places:
            p, q = (logits[row, place].softmax(0) for logits in (output.logits, output.adv_logits))
            by_hand.append(((p - q) * (p.log() - q.log())).sum() / 2)
    assert len(by_hand) == 8
    assert relative_error(output.divergence, torch.stack(by_hand).mean()) < 1e-12
    assert output.divergence > 1e-3


def test_without_a_masked_word_there_is_no_divergence_and_no_loss():
    _, picked = masked_batches()
    picked["labels"].fill_(-100)
    backbone = tiny_backbone(head="masked_lm")
    predict_given_words(backbone)
    for model in (AsaModel(backbone), AsaModel(backbone, one_forward=True), RDrop(backbone, alpha=2.0)):
        gradients, output = training_step(model, picked)
        assert (output.task_loss, output.divergence) == (0, 0)
        assert all(gradient.isfinite().all() for gradient in gradients.values())


def test_r_drop_compares_masked_words_alone():
    full, picked = masked_batches()
    backbone = tiny_backbone(head="masked_lm", hidden_dropout_prob=0.2)
    predict_given_words(backbone)
    model = RDrop(backbone, alpha=2.0).train()
    torch.manual_seed(3)
    alone = model(**picked)
    torch.manual_seed(3)
    output = model(**full)
    assert relative_error(alone.divergence, output.divergence) < 1e-12
    assert relative_error(alone.loss, output.loss) < 1e-12
    torch.manual_seed(3)
    first, second = backbone(**{name: torch.cat((full[name],) * 2) for name in full}).logits.chunk(2)
    masked = full["labels"] != -100
    p, q = F.log_softmax(first[masked], -1), F.log_softmax(second[masked], -1)
    both = F.kl_div(q, p, reduction="sum", log_target=True) + F.kl_div(p, q, reduction="sum", log_target=True)
    assert relative_error(output.divergence, 2.0 * both / 2 / 8) < 1e-12


def test_parts_of_a_batch_add_up_though_they_have_unequal_numbers_of_words():
    """A part with seven words weighs more in the divergence than one with a single word."""
    _, picked = masked_batches()
    backbone = tiny_backbone(head="masked_lm")
    predict_given_words(backbone)
    model = AsaModel(backbone).train()
    whole = model(**picked)
    size = _size(picked["labels"])
    loss, train_loss = 0.0, 0.0
    for rows in (slice(0, 3), slice(3, 4)):
        part = {name: tensor[rows] for name, tensor in picked.items()}
        output = model(**part)
        shares = tuple(zip(_size(part["labels"]), size, strict=True))
        loss += accumulation.weighted_loss(output, *shares, of_words=True)
        train_loss += accumulation.figures(output, *shares, of_words=True)["train_loss"]
    assert relative_error(loss, whole.loss) < 1e-12
    assert relative_error(train_loss, whole.task_loss + whole.divergence) < 1e-12


def kept_for_the_backward_pass(model, batch) -> float:
    """How many tensors of the size of all logits (B, L, V) autograd keeps, counted in numbers, each storage once."""
    vocabulary = model.backbone.config.vocab_size if hasattr(model, "backbone") else model.config.vocab_size
    kept: dict[int, int] = {}
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.shape[-1:] == (vocabulary,) and tensor.untyped_storage().data_ptr() not in weights:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes() // tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = model.train()(**batch)
    assert output.loss.requires_grad
    return sum(kept.values()) / (batch["input_ids"].numel() * vocabulary)


def test_a_vocabulary_is_kept_for_the_masked_words_alone(monkeypatch):
    """Two words of 16 are masked. With a divergence of every position it is four tensors of the whole size."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, 60, (8, 16), generator=generator)
    words = torch.stack([torch.randperm(16, generator=generator)[:2] for _ in range(8)])
    labels = ids.gather(1, words)
    full = {"input_ids": ids, "labels": torch.full_like(ids, -100).scatter(1, words, labels)}
    picked = {"input_ids": ids, "labels": labels, "words": words}

    def plain():
        return tiny_backbone(head="masked_lm", vocab_size=211)

    assert kept_for_the_backward_pass(plain(), full) == 1
    assert kept_for_the_backward_pass(AsaModel(plain()), full) == 1.25
    assert kept_for_the_backward_pass(AsaModel(plain(), one_forward=True), full) == 2.25
    backbone = plain()
    predict_given_words(backbone)
    assert kept_for_the_backward_pass(backbone, picked) == 2 / 16
    assert kept_for_the_backward_pass(AsaModel(backbone, one_forward=True), picked) == 8 / 16
    monkeypatch.setattr("models.asa.labelled_alone", lambda *compared: compared)
    assert kept_for_the_backward_pass(AsaModel(plain(), one_forward=True), full) == 4


def test_classes_of_words_and_masked_words_are_two_things():
    """A tag for each word stays a sum over the words of a sentence, and a mean over sentences."""
    batch = tiny_batch("token")
    model = AsaModel(tiny_backbone(head="token")).train()
    assert not model.of_words
    output = model(**batch)
    compared = model.config, output.logits, output.adv_logits, batch["labels"]
    words = (batch["labels"] != -100).sum()
    assert relative_error(output.divergence, divergence(*compared, of_words=True) * words / 4) < 1e-12
