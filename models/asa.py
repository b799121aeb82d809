"""Adversarial Self-Attention (ASA): the method itself.

Wu, Ding, Zhao, Xie, Huang, Zhang: Adversarial Self-Attention for Language Understanding, AAAI 2023, arXiv 2206.12608.

In every encoder layer, an adversary reads the layer's input and decides which query-key pairs the attention may use. It
is trained to make the masked prediction differ from the plain one, and it is rewarded for every pair it keeps. The
encoder stays an unmodified Hugging Face model: the mask enters through a forward pre-hook on each layer. The
divergence, the row budget and the table of encoder types are in divergence.py, budget.py and encoder_types.py.

    model = AsaModel(AutoModelForSequenceClassification.from_pretrained(name, dtype=torch.float32))
    model.train()
    model(**batch).loss.backward()     # task + divergence + tau^2 * penalty
    model.detach().save_pretrained(f)  # only the backbone is saved: evaluation and inference use the plain model

To clip gradients, clip `model.backbone` and `model.adversaries` separately: the adversaries' gradient norm is often
100 times as large.

Shapes: B sequences (for multiple choice, examples x choices), L tokens, H hidden size, N encoder layers.
"""

import contextlib
import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import nn
from torch.nn import functional as F
from transformers.utils import ModelOutput

try:
    from transformers.modeling_layers import GradientCheckpointingLayer
except ImportError:  # before transformers 4.53
    GradientCheckpointingLayer = None  # type: ignore[assignment, misc]

from .budget import RowBudget
from .divergence import IGNORED_LABEL, divergence, labelled_alone, zero_without_labels
from .encoder_types import (
    encoder_layers,
    encoder_type,
    hook_score_bias,
    layer_calls,
    plain,
    predicts_masked_words,
    restore_scores,
)

PROTOCOLS = ("corrected", "release")

# The attention score of a masked query-key pair. It also multiplies the divergence gradient that reaches the adversary,
# but not the penalty gradient, so a different value would be a different method.
MASKED_SCORE = -1e4

# Whether the hooks of a checkpointed layer run again when the backward pass recomputes it, after the adversarial pass
# has ended. They do before transformers 5.23.
HOOKS_RUN_AGAIN = GradientCheckpointingLayer is None or "__call__" in vars(GradientCheckpointingLayer)

# (scores, visible keys, real queries) -> (keep-mask, attention bias). `PositiveScore` and `RowBudget` are such rules.
MaskRule = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


@dataclass
class AsaOutput(ModelOutput):
    """What `AsaModel` returns in training mode.

    loss: task_loss + divergence (+ tau^2 * penalty, unless there is a row budget); scalar, call `backward` on it.
    logits, adv_logits: logits of the clean and the adversarial pass, in the shape that the backbone returns.
    task_loss: the backbone's own loss in the clean pass; scalar.
    divergence: divergence between the two predictions, already weighted; scalar. A mean over examples, or over masked
        words.
    penalty: number of kept pairs per sequence, summed over layers; scalar, not yet weighted by tau^2. None under a row
        budget.
    keep_rate: share of the real query-key pairs that each adversary keeps, one value per layer with an adversary; no
        gradient.
    fully_masked: share of the real query rows in which an adversary masked every real key, mean over the layers;
        scalar, no gradient.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    adv_logits: torch.Tensor | None = None
    task_loss: torch.Tensor | None = None
    divergence: torch.Tensor | None = None
    penalty: torch.Tensor | None = None
    keep_rate: torch.Tensor | None = None
    fully_masked: torch.Tensor | None = None


class AsaModel(nn.Module):
    """A Hugging Face model together with one adversary per encoder layer.

    In training mode, `forward(**batch)` runs the clean and the adversarial pass and returns an `AsaOutput`. In
    evaluation mode it runs the backbone alone and returns the backbone's own output. For the Hugging Face Trainer, see
    `models/trainer.py`.

    Args:
        backbone: a sequence-classification, multiple-choice, token-classification or masked-LM model of one of the
            types in `ENCODER_TYPES`, with or without PEFT adapters. It is trained in place.
        tau: the weight of the penalty is tau^2.
        protocol: "corrected" counts only real tokens; "release" follows the authors' code, which counts padding too.
        one_forward: run both passes as one batch of 2B rows where the loss allows it. This is faster: half the kernel
            launches, and the embeddings' gradient is computed once. It equals two forward passes up to rounding, but
            the clean logits are no longer bit-for-bit those of the backbone alone.
        layers: the numbers, from 0, of the layers that have an adversary; the others are never masked. None means all
            layers.
        divergence_weight: weight of the divergence, for both encoder and adversary; the method as published has no such
            weight. With weight w, scale tau by sqrt(w) to keep the adversary's balance of divergence and penalty.
        budget: mask this share of each query's keys (see `models/budget.py`) instead of comparing the scores with 0.
            There is then no penalty, and tau has no effect.

    Raises:
        ValueError: the model type, its head, its attention implementation or the protocol is not supported, a layer
            does not exist, or the budget is not a share.
    """

    accepts_loss_kwargs = False  # for the Trainer: the loss is a mean over this batch alone

    def __init__(
        self,
        backbone: nn.Module,
        tau: float = 0.5,
        protocol: str = "corrected",
        one_forward: bool = False,
        layers: Iterable[int] | None = None,
        divergence_weight: float = 1.0,
        budget: float | None = None,
    ):
        super().__init__()
        if protocol not in PROTOCOLS:
            raise ValueError(f"protocol {protocol!r} is unknown: choose one of {', '.join(PROTOCOLS)}")
        self.encoder_type = encoder_type(backbone)
        self.backbone = backbone
        config = self.config
        adversarial = adversarial_layers(config, layers)
        self.tau = tau
        self.protocol = protocol
        self.one_forward = one_forward
        self.divergence_weight = divergence_weight
        self.rule = PositiveScore() if budget is None else RowBudget(budget)
        self.of_words = predicts_masked_words(backbone)
        weight = next(backbone.parameters())
        dtype = torch.promote_types(weight.dtype, torch.float32)  # even if the backbone has half precision
        # Indexed by layer number; None for a layer without an adversary.
        self.adversaries = nn.ModuleList(
            Adversary(config.hidden_size, config.initializer_range).to(weight.device, dtype)  # type: ignore[misc]
            if number in adversarial
            else None
            for number in range(layer_calls(config))
        )
        self._pass: _AdversarialPass | None = None
        self._attach()

    @property
    def config(self):
        """The configuration of the Hugging Face model."""
        return plain(self.backbone).config

    def forward(self, *, labels: torch.Tensor | None = None, **batch):
        """Run both passes on one batch; the keywords are those of the backbone.

        Returns:
            `AsaOutput` in training mode, the backbone's own output in evaluation mode.

        Raises:
            ValueError: in training, if there are no labels or no inputs, no divergence is defined for the loss, the
                attention mask does not have one entry per token, or gradient checkpointing would lose the mask.
        """
        if labels is not None:
            batch["labels"] = labels
        if not self.training:
            return self.backbone(**batch)
        if labels is None:
            raise ValueError("training with ASA needs labels in the batch")
        if self._detached:
            raise ValueError("this AsaModel was detached from its backbone: make another one to train with ASA")
        check_attention_mask(**batch)
        if HOOKS_RUN_AGAIN and plain(self.backbone).is_gradient_checkpointing:
            raise ValueError(TOO_OLD_TO_CHECKPOINT)

        batch["return_dict"] = True
        # Mean squared error has no ignored label, which one forward pass needs.
        regression = labels.is_floating_point() or self.config.num_labels == 1
        passes = self._one_forward if self.one_forward and not regression else self._two_forwards
        logits, adv_logits, task_loss, masks = passes(**batch)

        task_loss = zero_without_labels(task_loss, labels)
        compared = logits, adv_logits, labels
        if self.of_words and "words" not in batch:  # with them, the backbone returns no other logits
            compared = labelled_alone(*compared)
        apart = divergence(self.config, *compared, self.protocol, self.of_words)
        apart = self.divergence_weight * apart
        loss, penalty = task_loss + apart, None
        if isinstance(self.rule, PositiveScore):
            penalty = torch.stack(masks.penalty).sum()
            loss = loss + self.tau**2 * penalty
        return AsaOutput(
            loss=loss,
            logits=logits,
            adv_logits=adv_logits,
            task_loss=task_loss,
            divergence=apart,
            penalty=penalty,
            keep_rate=torch.stack(masks.keep_rate),
            fully_masked=torch.stack(masks.fully_masked).mean(),
        )

    def detach(self) -> nn.Module:
        """Remove the hooks from the backbone and return it: the original model with its trained weights."""
        for handle in self._handles:
            handle.remove()
        self._restore_scores()
        if self.protocol == "release":
            lose_attention_dropout(self.backbone, lost=False)
        self._detached = True
        return self.backbone

    def activation_checkpointing_enable(self, activation_checkpointing_kwargs: dict | None = None, **settings) -> None:
        """Enable gradient checkpointing on the backbone, like its own method of this name; the Trainer calls it.

        Raises:
            ValueError: the model or this version of transformers does not support it, or reentrant checkpointing is
                requested.
        """
        if HOOKS_RUN_AGAIN:
            raise ValueError(TOO_OLD_TO_CHECKPOINT)
        given = {"use_reentrant": False} | (activation_checkpointing_kwargs or {})
        if given["use_reentrant"]:
            raise ValueError(REENTRANT)
        model: Any = plain(self.backbone)
        model.activation_checkpointing_enable(given, **settings)

    def gradient_checkpointing_enable(self, gradient_checkpointing_kwargs: dict | None = None, **settings) -> None:
        """The same under its older name."""
        self.activation_checkpointing_enable(gradient_checkpointing_kwargs, **settings)

    def _two_forwards(self, **batch) -> tuple:
        """Return the logits of the clean and the adversarial pass, the clean loss, and the adversarial record."""
        clean = self.backbone(**batch)
        inputs = {name: value for name, value in batch.items() if name != "labels"}
        with self.adversarial_mode(batch.get("attention_mask")) as masks:
            adv_logits = self.backbone(**inputs).logits
        return clean.logits, adv_logits, clean.loss, masks

    def _one_forward(self, labels: torch.Tensor, **batch) -> tuple:
        """The same, computed as one batch: the clean rows first, the adversarial rows after them."""
        rows = len(labels)
        # The adversarial rows have no label, so the backbone's mean loss is that of the clean rows.
        labels = torch.cat((labels, torch.full_like(labels, IGNORED_LABEL)))
        with self.adversarial_mode(batch.get("attention_mask"), below_clean_rows=True) as masks:
            output = self.backbone(**twice(batch, rows), labels=labels)
        return *output.logits.chunk(2), output.loss, masks

    @contextlib.contextmanager
    def adversarial_mode(
        self,
        attention_mask: torch.Tensor | None = None,
        below_clean_rows: bool = False,
        rule: MaskRule | None = None,
    ):
        """Context in which the adversaries mask the backbone's attention.

        Args:
            attention_mask: that of the batch, (..., L), non-zero on real tokens; None if every token is real.
            below_clean_rows: the backbone is called with the rows of the batch twice, and the first half stays
                unmasked.
            rule: turns scores into masks; default: the model's own rule.

        Yields:
            The record of the pass: lists with the penalty, keep rate and share of fully masked rows of each adversary.
        """
        count_padding = self.protocol == "release"
        self._pass = _AdversarialPass(rule or self.rule, attention_mask, count_padding, below_clean_rows)
        try:
            yield self._pass
            if self._pass.calls != len(self.adversaries):
                raise RuntimeError(self._saw(self._pass.calls))
        finally:  # after a failed step, too, the backbone is unmasked
            self._pass = None
            self._restore_scores()

    def _attach(self) -> None:
        self._detached = False  # a flag, because torch.compile cannot read the handles
        self._handles: list = []
        self._biased: list[tuple[nn.Module, str]] = []
        lose_attention_dropout(self.backbone, lost=self.protocol == "release")
        for layer in encoder_layers(self.backbone):
            self._handles.append(layer.register_forward_pre_hook(_Hook(self), with_kwargs=True))
            if path := self.encoder_type.scores:
                attention, _, method = path.rpartition(".")
                self._biased.append((layer.get_submodule(attention), method))
                self._handles += hook_score_bias(*self._biased[-1])

    def _saw(self, calls: int) -> str:
        return (
            f"made for {len(self.adversaries)} encoder layers, of which {calls} were called: the backbone was replaced,"
            " copied or changed; make a new model around it"
        )

    def _restore_scores(self) -> None:
        for attention, method in self._biased:
            restore_scores(attention, method)

    def __copy__(self):
        """Refuse: a shallow copy would share the backbone, and take over its hooks."""
        raise TypeError("copy.copy would leave two models with one backbone: use copy.deepcopy")

    def __setstate__(self, state: dict) -> None:
        """Restore a copy: its backbone's hooks refer to no model, so new ones are attached unless it was detached."""
        super().__setstate__(state)
        detached = self._detached
        self.detach()
        if not detached:
            self._attach()

    def _mask_attention(self, layer: nn.Module, args: tuple, kwargs: dict):
        """Forward pre-hook of an encoder layer: replace the incoming mask by the adversarial one."""
        if self._pass is None:
            return None
        if self._pass.calls == len(self.adversaries):
            raise RuntimeError(self._saw(self._pass.calls + 1))
        adversary = self.adversaries[self._pass.calls]
        self._pass.calls += 1
        if adversary is None:
            return None
        if getattr(layer, "gradient_checkpointing", False):
            check_checkpointing(layer)
        hidden_states = args[0] if args else kwargs["hidden_states"]
        place = self.encoder_type.mask
        incoming = args[place] if len(args) > place else kwargs.get("attention_mask")
        own = incoming
        if self.encoder_type.scores and incoming is not None:  # such layers take 1 and 0, of any dtype
            own = incoming.bool()
        # Detached: the adversary may influence the encoder only through the mask.
        read = hidden_states.detach()
        if self._pass.below_clean_rows:
            read = read.chunk(2)[1]
        bias = self._pass.bias(adversary(self._normalised(layer, read)), own)
        if self._pass.below_clean_rows:
            bias = F.pad(bias, (0, 0, 0, 0, len(bias), 0))  # (2B, L, L), 0 on the clean rows
        # Where the bias is added to the scores, it comes with the layer's own mask: checkpointing keeps only arguments.
        mask = (incoming, bias) if self.encoder_type.scores else combine(bias, incoming, _query_dtype(hidden_states))
        if bias.requires_grad and not hidden_states.requires_grad:
            # Below frozen weights: SDPA's memory-efficient CUDA kernel crashes if the mask alone needs a gradient
            # (pytorch issue 148476).
            hidden_states = hidden_states.detach().requires_grad_()
            if args:
                args = (hidden_states, *args[1:])
            else:
                kwargs = {**kwargs, "hidden_states": hidden_states}
        if len(args) > place:
            return (*args[:place], mask, *args[place + 1 :]), kwargs
        return args, {**kwargs, "attention_mask": mask}

    @torch.no_grad()
    def _normalised(self, layer: nn.Module, hidden_states: torch.Tensor) -> torch.Tensor:
        """The input that the layer's attention reads: in a pre-norm layer, the normalised input.

        Without the norm the input grows from layer to layer, and the adversary's scores would saturate the sigmoid.
        """
        norm = self.encoder_type.norm
        if not norm or not getattr(self.config, "pre_norm", True):
            return hidden_states
        return layer.get_submodule(norm)(hidden_states)


class _Hook:
    """Forward pre-hook that calls an `AsaModel` for as long as that model exists.

    It holds only a weak reference, so that the backbone does not keep the adversaries alive or take them along when it
    is copied or pickled. The hook of such a copy does nothing.
    """

    def __init__(self, model: AsaModel | None = None):
        self.model = None if model is None else weakref.ref(model)

    def __call__(self, layer: nn.Module, args: tuple, kwargs: dict):
        model = None if self.model is None else self.model()
        return None if model is None else model._mask_attention(layer, args, kwargs)

    def __reduce__(self):
        return _Hook, ()


class Adversary(nn.Module):
    """Scores every query-key pair by the scaled product of two linear maps, as one attention head of full width."""

    def __init__(self, hidden_size: int, initializer_range: float):
        super().__init__()
        self.query = nn.Linear(hidden_size, hidden_size)
        self.key = nn.Linear(hidden_size, hidden_size)
        for linear in (self.query, self.key):
            nn.init.normal_(linear.weight, std=initializer_range)
            nn.init.zeros_(linear.bias)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Compute scores (B, L, L) of hidden states (B, L, H), in float32 (or float64) even under autocast.

        In half precision the gradients would overflow: they have a factor of 1e4 and, in fp16, the loss scale.
        """
        with torch.autocast(hidden_states.device.type, enabled=False):
            dtype = torch.promote_types(self.query.weight.dtype, torch.float32)
            hidden_states = hidden_states.to(dtype)
            query, key = (  # (B, L, H)
                F.linear(hidden_states, linear.weight.to(dtype), linear.bias.to(dtype))
                for linear in (self.query, self.key)
            )
            return query @ key.transpose(1, 2) / hidden_states.shape[-1] ** 0.5


class KeepMask(torch.autograd.Function):
    """Score -> keep-mask, 1 where the score is positive and the key visible (B, L or 1, L), else 0.

    Backward: a straight-through estimator with the derivative of the sigmoid, and with the sign reversed, so that a
    descent step on the loss is an ascent step for the adversary. The release also adds noise that cancels out; it is
    left out here.
    """

    @staticmethod
    def forward(ctx, score: torch.Tensor, visible: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(score, visible)
        return ((score > 0) & visible).to(score.dtype)

    @staticmethod
    def backward(ctx, grad: torch.Tensor):
        score, visible = ctx.saved_tensors
        gate = score.sigmoid()
        return -grad * gate * (1 - gate) * visible, None


class PositiveScore:
    """ASA's rule: keep a pair if its score is positive. The penalty counts the kept pairs."""

    hidden_score = MASKED_SCORE

    def __call__(
        self, score: torch.Tensor, visible: torch.Tensor, real_query: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Scores (B, L, L), visible keys (B, 1 or L, L) -> keep-mask and attention bias, also of padding queries."""
        keep = KeepMask.apply(score, visible)
        return keep, (1 - keep) * MASKED_SCORE


class _AdversarialPass:
    """The record of one adversarial pass: which tokens are real, and what each layer's adversary masked."""

    def __init__(
        self,
        rule: MaskRule,
        attention_mask: torch.Tensor | None,
        count_padding: bool,
        below_clean_rows: bool = False,
    ):
        self.rule = rule
        self.real = None if attention_mask is None else attention_mask.flatten(0, -2).bool()  # (B, L)
        self.count_padding = count_padding
        self.below_clean_rows = below_clean_rows
        self.calls = 0  # encoder layers called so far, with or without an adversary
        self.penalty: list[torch.Tensor] = []
        self.keep_rate: list[torch.Tensor] = []
        self.fully_masked: list[torch.Tensor] = []

    def bias(self, score: torch.Tensor, incoming: torch.Tensor | None) -> torch.Tensor:
        """Turn a layer's scores (B, L, L) into its attention bias (B, L, L), and add to the record.

        Args:
            incoming: the layer's own mask, as `allowed_pairs` takes it. The adversary has no say over the pairs that it
                forbids, for example those outside the window of local attention.
        """
        if self.real is None:
            self.real = torch.ones(score.shape[:2], dtype=torch.bool, device=score.device)
        visible, real_query = self.real[:, None, :], self.real[:, :, None]  # (B, 1, L), (B, L, 1)
        if incoming is not None:
            visible = visible & allowed_pairs(incoming)[-len(score) :]  # (B, L or 1, L), of the adversarial rows
        keep, bias = self.rule(score, visible, real_query)

        # A row in which nothing is kept gets no bias, but its mask still has a gradient. In float32, a bias of -1e4 on
        # a whole row changes nothing; in float16 it would change the result.
        closed = keep.detach().sum(-1, keepdim=True) == 0  # (B, L, 1)
        bias = bias - closed * bias.detach()

        counted = keep if self.count_padding else keep * real_query
        self.penalty.append(counted.sum() / len(score))
        with torch.no_grad():
            # clamp: a batch may have no real token at all.
            self.keep_rate.append((keep * real_query).sum() / (visible & real_query).sum().clamp(min=1))
            self.fully_masked.append((closed & real_query).sum() / self.real.sum().clamp(min=1))
        return bias


def allowed_pairs(mask: torch.Tensor) -> torch.Tensor:
    """Which query-key pairs a layer's mask (B or 1, 1, L or 1, L) allows: boolean (B or 1, L or 1, L).

    In a boolean mask True allows a pair. A float mask is added to the scores, and 0 allows a pair.
    """
    mask = mask.squeeze(1)
    return mask if mask.dtype == torch.bool else mask > MASKED_SCORE / 2


def combine(bias: torch.Tensor, incoming: torch.Tensor | None, dtype: torch.dtype) -> torch.Tensor:
    """Combine the adversary's bias with the incoming mask into the mask for the attention.

    Args:
        bias: (B, L, L).
        incoming: None, boolean (True allows) or float (added to the scores), broadcastable to (B, 1, L, L).
        dtype: dtype of the result if the incoming mask is not of a floating type.

    Returns:
        (B, 1, L, L), the minimum of the two. Their sum would overflow in float16, and `torch.minimum` would halve the
        gradient where both are 0.
    """
    bias = bias.unsqueeze(1)
    if incoming is None:
        return bias.to(dtype)
    if incoming.dtype == torch.bool:
        return bias.to(dtype).masked_fill(~incoming, torch.finfo(dtype).min)
    bias = bias.to(incoming.dtype)
    return torch.where(incoming < bias, incoming, bias)


def twice(batch: dict, rows: int) -> dict:
    """Repeat the batch: its `rows` rows, followed by the same rows again."""
    return {
        name: torch.cat((value, value)) if isinstance(value, torch.Tensor) and value.shape[:1] == (rows,) else value
        for name, value in batch.items()
    }


def lose_attention_dropout(backbone: nn.Module, lost: bool = True) -> None:
    """Turn off attention dropout in a RoBERTa: the release's copy of RoBERTa lacks it, for every method.

    Args:
        lost: False turns on again what was turned off, with its former probability.
    """
    config: Any = plain(backbone).config
    for layer in encoder_layers(backbone) if config.model_type == "roberta" else ():
        attention: Any = layer.attention  # RoBERTa's layers have this attribute
        dropout = attention.self.dropout
        if lost and not hasattr(dropout, "lost_p"):
            dropout.lost_p, dropout.p = dropout.p, 0.0
        elif not lost and hasattr(dropout, "lost_p"):
            dropout.p = dropout.lost_p
            del dropout.lost_p


def check_attention_mask(attention_mask=None, input_ids=None, inputs_embeds=None, **_) -> None:
    """Raise `ValueError` unless the mask has one entry per token: ASA has to know which tokens are real."""
    if input_ids is None and inputs_embeds is None:
        raise ValueError(
            "training with ASA needs input_ids or inputs_embeds in the batch (transformers' Trainer drops them unless"
            " remove_unused_columns is False; AsaTrainer keeps them)"
        )
    shape = input_ids.shape if input_ids is not None else inputs_embeds.shape[:-1]
    if attention_mask is not None and getattr(attention_mask, "shape", None) != shape:
        given = tuple(attention_mask.shape) if isinstance(attention_mask, torch.Tensor) else type(attention_mask)
        raise ValueError(
            f"training with ASA needs an attention_mask with one entry a token, {tuple(shape)}, not {given}"
        )


TOO_OLD_TO_CHECKPOINT = (
    f"with ASA, gradient checkpointing does not work with transformers {transformers.__version__}: use 5.23"
)
REENTRANT = "with ASA, gradient checkpointing must have use_reentrant=False, or the mask may have no gradient"


def check_checkpointing(layer: nn.Module) -> None:
    """Raise `ValueError` if the layer uses reentrant checkpointing, which tracks only positional arguments."""
    if getattr(layer._gradient_checkpointing_func, "keywords", {}).get("use_reentrant", True):  # PyTorch's default
        raise ValueError(REENTRANT)


def adversarial_layers(config, layers: Iterable[int] | None) -> list[int]:
    """The sorted numbers of the layers that get an adversary; None means all layers.

    Raises:
        ValueError: a layer does not exist, or the list is empty.
    """
    calls = layer_calls(config)
    numbers = sorted(set(range(calls) if layers is None else layers))
    if not numbers:
        raise ValueError("no layer has an adversary: give one at the least")
    wrong = [number for number in numbers if number not in range(calls)]
    if wrong:
        raise ValueError(f"there is no layer {wrong[0]}: the encoder has the layers 0 to {calls - 1}")
    return numbers


def _query_dtype(hidden_states: torch.Tensor) -> torch.dtype:
    device = hidden_states.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden_states.dtype
