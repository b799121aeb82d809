"""The baselines that ASA is compared with: published regularisation methods for fine-tuning, one module each.

Like `AsaModel`, each is a module around the backbone: in training mode, `forward(**batch)` computes the step's loss; in
evaluation mode, it only calls the backbone. `loss` is `task_loss` + `divergence`, the latter already weighted. All
methods use ASA's divergence between two predictions (`models.divergence`), so that they treat sentences, choices, words
and regressions alike.
"""

import contextlib
import copy
from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from .asa import AsaModel, AsaOutput, twice
from .divergence import divergence, is_regression, labelled_alone, zero_without_labels
from .encoder_types import predicts_masked_words

R3F_NOISES = ("uniform", "normal")

# The loss whose gradient directs the noise is multiplied by this, so that the gradient does not underflow in float16.
# The gradient's length has no effect.
GRADIENT_SCALE = 2.0**10

EARLY = 0.1  # the share of SMART's training in which the average follows the weights faster


@dataclass
class BaselineOutput(ModelOutput):
    """What the methods of this file return in training mode.

    loss: task_loss + divergence; scalar, call `backward` on it.
    logits: logits of the pass without noise (for FreeLB, which has none, of the first pass), in the shape that the
        backbone returns.
    task_loss: mean over labels; scalar. None if the whole loss is the task loss.
    divergence: the term that the method adds, already weighted, a mean over examples; scalar.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    task_loss: torch.Tensor | None = None
    divergence: torch.Tensor | None = None


class Baseline(nn.Module):
    """Base class: runs `step` in training mode, and the backbone in evaluation mode."""

    def __init__(self, backbone: PreTrainedModel):
        super().__init__()
        self.backbone = backbone
        self.of_words = predicts_masked_words(backbone)

    def forward(self, **batch):
        """Run one step, or the backbone; raise `ValueError` in training without labels."""
        if not self.training:
            return self.backbone(**batch)
        if batch.get("labels") is None:
            raise ValueError("training needs labels in the batch")
        return self.step(**batch | {"return_dict": True})

    def step(self, labels: torch.Tensor, **batch) -> ModelOutput:
        raise NotImplementedError


class RDrop(Baseline):
    """R-Drop: the predictions under two draws of dropout should agree.

    Liang, Wu, Li, Wang, Meng, Qin, Chen, Zhang, Liu: R-Drop: Regularized Dropout for Neural Networks, NeurIPS 2021,
    arXiv 2106.14448, equations 2 to 4 and algorithm 1.

    loss = (task_1 + task_2) / 2 + alpha * (KL(p_1||p_2) + KL(p_2||p_1)) / 2, means over the batch; neither side is
    detached. As in the paper, the two passes are one pass over the batch repeated.

    The authors' values of alpha are not comparable with each other. The paper's equation 4 sums the two task losses, so
    its alpha is twice the one here. The authors' example code averages the task losses, but sums the divergence over
    the batch. Their BERT code for GLUE sums the task losses too; its classification loss is the one with alpha = B / 4
    here, with batches of B examples.

    Args:
        alpha: weight of the divergence; for a regression, of the mean squared difference.
    """

    def __init__(self, backbone: PreTrainedModel, alpha: float):
        super().__init__(backbone)
        self.alpha = alpha

    def step(self, labels: torch.Tensor, **batch) -> BaselineOutput:
        output = self.backbone(**twice(batch, len(labels)), labels=torch.cat((labels, labels)))
        first, second = output.logits.chunk(2)
        task_loss = zero_without_labels(output.loss, labels)
        compared = first, second, labels
        if self.of_words and "words" not in batch:
            compared = labelled_alone(*compared)
        apart = self.alpha * divergence(self.backbone.config, *compared, of_words=self.of_words)
        return BaselineOutput(loss=task_loss + apart, logits=first, task_loss=task_loss, divergence=apart)


class RandomMask(AsaModel):
    """ASA with random instead of learned masks, which shows what the adversary contributes.

    This is our ablation, not a published method. The two passes, the divergence, the bias and the rule for fully masked
    rows are those of ASA. Each query-key pair is kept with the same probability, with one draw for all heads. There is
    no penalty, and there are no parameters besides the backbone's.

    Args:
        keep_rate: the probability of keeping a pair.
        budget: instead of `keep_rate`, mask exactly as many keys per row as `AsaModel` does under this budget, with the
            same bias: the control for that method.
        protocol, layers, divergence_weight: as for `AsaModel`.
        one_forward: as for `AsaModel`, but True by default.
    """

    def __init__(
        self,
        backbone: nn.Module,
        keep_rate: float,
        protocol: str = "corrected",
        layers: Iterable[int] | None = None,
        one_forward: bool = True,
        budget: float | None = None,
        divergence_weight: float = 1.0,
    ):
        super().__init__(backbone, 0.0, protocol, one_forward, layers, divergence_weight, budget=budget)
        self.adversaries = nn.ModuleList(adversary and RandomScores(keep_rate) for adversary in self.adversaries)

    def forward(self, *, labels: torch.Tensor | None = None, **batch):  # the Trainer looks for the name `labels`
        """Like `AsaModel.forward`, but the output has no penalty."""
        output = super().forward(labels=labels, **batch)
        if self.training:
            output = AsaOutput(**{name: value for name, value in output.items() if name != "penalty"})
        return output


class RandomScores(nn.Module):
    """Replaces an adversary: scores (B, L, L) that are positive with probability `keep_rate`."""

    def __init__(self, keep_rate: float):
        super().__init__()
        self.keep_rate = keep_rate

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        rows, length, _ = hidden_states.shape
        return self.keep_rate - torch.rand(rows, length, length, device=hidden_states.device)


class EmbeddingNoise(Baseline):
    """Base class of the methods that add noise to the embeddings of the real tokens.

    Raises:
        ValueError: the weights have half precision, in which the noise would have no effect.
    """

    def __init__(self, backbone: PreTrainedModel):
        super().__init__(backbone)
        precision = _word_embeddings(backbone).weight.dtype
        if precision.itemsize < torch.float32.itemsize:
            raise ValueError(
                f"noise on the embeddings needs weights in float32, not {precision}: load them with dtype=torch.float32"
            )

    def real_tokens(
        self, input_ids: torch.Tensor | None = None, attention_mask: torch.Tensor | None = None, **_
    ) -> torch.Tensor:
        """(sequences, L, embedding width), float32 like the noise: 1 on real tokens, 0 on padding.

        Raises:
            ValueError: the batch has no input_ids, whose embeddings the noise is added to.
        """
        if input_ids is None:
            raise ValueError("noise on the embeddings needs input_ids in the batch")
        embeddings = _word_embeddings(self.backbone)
        dtype = torch.promote_types(embeddings.weight.dtype, torch.float32)
        real = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        return real.flatten(0, -2).ne(0).to(dtype)[..., None].expand(-1, -1, embeddings.weight.shape[-1])

    @contextlib.contextmanager
    def added(self, noise: torch.Tensor):
        """Context in which the noise is added to the model's word embeddings."""
        embeddings = _word_embeddings(self.backbone)

        def noisy(module: nn.Module, inputs: tuple, output):
            # I-BERT's embedding class also returns the scale of its integers.
            return (output[0] + noise, *output[1:]) if isinstance(output, tuple) else output + noise

        hook = embeddings.register_forward_hook(noisy)
        try:
            yield
        finally:
            hook.remove()

    def apart(self, p: torch.Tensor, q: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """KL(p||q) + KL(q||p), a mean over examples; for a regression, the mean squared difference."""
        config = self.backbone.config
        factor = 1 if is_regression(config, p, labels) else 2
        return factor * divergence(config, p, q, labels, of_words=self.of_words)


def _own_dropout(attention: nn.Module) -> float:
    """The dropout that an attention applies without a dropout module, as EuroBERT's does; 0 for any other module."""
    share = getattr(attention, "attention_dropout", 0)
    return share if isinstance(share, float) else 0


class FineNoise(EmbeddingNoise):
    """Base class of the methods with noise of size 1e-5, which need enough precision for the noise to have an effect.

    The noise is added in float32, but under bf16 or fp16 the encoder's matrix products round their inputs far more
    coarsely, so that two passes differ by their rounding. With dropout this does not matter: each pass draws its own
    dropout, which moves the prediction far more than noise or rounding. A model without dropout is computed in float32,
    whatever the run's precision. `python -m benchmarks.noise` measures both cases.
    """

    def forward(self, **batch):
        """Like `Baseline.forward`, but a training step without dropout is computed in float32, even under autocast."""
        dropout = any(
            module.training and (module.p if isinstance(module, nn.Dropout) else _own_dropout(module))
            for module in self.modules()
        )
        precise = self.training and not dropout
        device = _word_embeddings(self.backbone).weight.device.type
        with torch.autocast(device, enabled=False) if precise else contextlib.nullcontext():
            return super().forward(**batch)


class FreeLB(EmbeddingNoise):
    """FreeLB: trains on each of K ascent steps of adversarial noise on the embeddings.

    Zhu, Cheng, Gan, Sun, Goldstein, Liu: FreeLB: Enhanced Adversarial Training for Natural Language Understanding,
    ICLR 2020, arXiv 1909.11764, algorithm 1.

    The noise d of a sequence with n real tokens of width H starts as U(-1, 1) * init / sqrt(n * H). Then loss = the
    mean of task(x + d_1), ..., task(x + d_K), with d_k+1 = P(d_k + lr * g / |g|). Here g is the gradient of task(x +
    d_k) with respect to d_k, |.| the Frobenius norm of a sequence's noise, and P the projection onto the ball of radius
    max_norm. As in the paper, the K passes use the same dropout mask.

    The authors call `backward` in each step, which gives the gradients of the parameters and of the noise at once. Here
    there is a single loss per step, so that all methods share one training loop. This keeps the activations of all K
    passes until `backward`, K times the memory, and K - 1 of the passes are differentiated a second time, for the
    noise.

    The sizes lr, init and max_norm are relative to the word embeddings. They are given for an encoder whose embeddings
    have the norm `embedding_norm`, and are multiplied by the ratio of this encoder's norm before training to that norm.
    The published sizes therefore apply unchanged to the encoder they were published for, and move the embeddings of any
    other encoder by the same share of their length.

    The command line's defaults are the authors' values for RoBERTa-large on SST-2. They use others for each task: on
    CoLA lr 0.025, init 0.4, max_norm 0.3, on MRPC 0.04, 0.64, 0.4, with 3 steps. The norm is `mean_embedding_norm`; in
    terms of the matrix's components, it is sqrt(H * (mean^2 + deviation^2)):

        RoBERTa-large       4.4   -0.018, 0.135 and 0.136, of two models fine-tuned from it, in the weight statistics
                                  of the repository PaddlePaddle/GraphNet
        RoBERTa-base        3.6   -0.012, 0.131, from the same source
        BERT-base, uncased  1.4   -0.028, 0.043, from the same source
        all-mpnet-base-v2   2.39  measured
        all-MiniLM-L6-v2    1.09  measured: unscaled, the published sizes are four times too large for it

    The authors' code for RoBERTa makes one pass more than it has steps; their code for ALBERT and the paper's algorithm
    make exactly K.

    Args:
        steps: K.
        lr: size of an ascent step.
        init: size of the initial noise.
        max_norm: radius of the ball; 0 for no bound.
        embedding_norm: the embedding norm that lr, init and max_norm are given for; 0 uses them unscaled.
    """

    def __init__(
        self, backbone: PreTrainedModel, steps: int, lr: float, init: float, max_norm: float, embedding_norm: float
    ):
        super().__init__(backbone)
        scale = mean_embedding_norm(backbone) / embedding_norm if embedding_norm else 1.0
        self.steps, self.lr, self.init, self.max_norm = steps, scale * lr, scale * init, scale * max_norm

    def step(self, labels: torch.Tensor, **batch) -> BaselineOutput:
        real = self.real_tokens(**batch)
        noise = (2 * torch.rand_like(real) - 1) * real * self.init / real.sum((1, 2), keepdim=True).clamp(min=1).sqrt()
        device = [real.device] if real.is_cuda else []
        outputs, losses = [], []
        for remaining in reversed(range(self.steps)):
            noise.requires_grad_()
            # All passes but the last restore the generators, so that the next pass draws the same dropout.
            with self.added(noise), torch.random.fork_rng(device, enabled=remaining > 0):
                outputs.append(self.backbone(**batch, labels=labels))
            losses.append(zero_without_labels(outputs[-1].loss, labels))
            if remaining:
                # * real: MobileBERT's embeddings read neighbouring tokens, and those of the last token read the
                # padding.
                gradient = _per_largest(_gradient(losses[-1], noise, retain_graph=True) * real, dim=(1, 2))
                # The gradient's largest component is now 1, or all are 0.
                ascent = gradient / _norm(gradient).clamp(min=1)
                noise = self._project(noise.detach() + self.lr * ascent)
        return BaselineOutput(loss=torch.stack(losses).mean(), logits=outputs[0].logits)

    def _project(self, noise: torch.Tensor) -> torch.Tensor:
        return noise * (self.max_norm / _norm(noise)).clamp(max=1) if self.max_norm else noise


class Smart(FineNoise):
    """SMART: predictions should not change under adversarial noise, nor change fast during training.

    Jiang, He, Chen, Liu, Gao, Zhao: SMART: Robust and Efficient Fine-Tuning for Pre-trained Natural Language Models
    through Principled Regularized Optimization, ACL 2020, arXiv 1911.03437, equations 1 to 3 and algorithm 1.

    loss = task(x) + weight * l(f(x + d), f(x)) + bregman * l(f(x), f'(x)), means over the batch, where l(p, q) =
    KL(p||q) + KL(q||p), or the squared difference for a regression. The noise d starts as N(0, noise^2). Each inner
    step adds step_size times the gradient of l(f(x + d), f(x)), with f(x) fixed, divided by that gradient's largest
    component. f' is the backbone without dropout and with weights averaged over the steps, w' = momentum * w' + (1 -
    momentum) * w. It is part of this module's state, but of no checkpoint. As in the paper, the momentum is smaller in
    the first tenth of the training steps.

    The authors' code (MT-DNN) has no averaged weights: with bregman 0 this is their code's method, otherwise it is the
    paper's; the comparison table has a row for each. Where paper and code differ, two details follow the first version
    of the code: the gradient is normalised per token, not over the whole sequence, and by default the noise is
    unbounded, while the paper's bound would be far below the step size. Later versions of the code normalise the noise
    itself, which makes it a thousand times larger. The authors treat the target of each half of l as fixed, which near
    l = 0 halves its gradient.

    Each pass draws its own dropout, so l is not 0 even without noise.

    Args:
        weight, bregman: weights of the two divergence terms; bregman 0 leaves out the second.
        noise, step_size, steps: start, step size and number of steps of the inner ascent.
        radius: bound on the noise's maximum norm; 0 for no bound.
        momentum, early_momentum: momentum of the averaged weights after and during the first tenth of training.

    Attributes:
        share_done: completed share of the training, from 0 to 1, set by the training loop. In a loop that does not set
            it, it stays at 1, and `momentum` applies throughout.
    """

    seen: torch.Tensor

    def __init__(
        self,
        backbone: PreTrainedModel,
        weight: float,
        noise: float,
        step_size: float,
        steps: int,
        radius: float,
        bregman: float,
        momentum: float,
        early_momentum: float,
    ):
        super().__init__(backbone)
        self.weight, self.noise, self.step_size, self.steps = weight, noise, step_size, steps
        self.radius, self.bregman = radius, bregman
        self.momentum, self.early_momentum, self.share_done = momentum, early_momentum, 1.0
        if bregman:
            trained = [name for name, each in backbone.named_parameters() if each.requires_grad and each.ndim > 1]
            if not trained:
                raise ValueError("no weight matrix of the model is trained: SMART cannot follow its steps")
            self._last_trained = trained[-1]
            self.average = copy.deepcopy(backbone).requires_grad_(False).eval()
            self.register_buffer("seen", self._watched().detach().clone())

    def train(self, mode: bool = True):
        super().train(mode)
        if self.bregman:
            self.average.eval()
        return self

    def step(self, labels: torch.Tensor, **batch) -> BaselineOutput:
        clean = self.backbone(**batch, labels=labels)
        fixed = clean.logits.detach()
        real = self.real_tokens(**batch)
        noise = torch.randn_like(real) * self.noise * real
        for _ in range(self.steps):
            with self.added(noise.requires_grad_()):
                noisy = self.backbone(**batch).logits
            gradient = _gradient(self.apart(noisy, fixed, labels), noise) * real
            noise = noise.detach() + self.step_size * _per_largest(gradient, dim=-1)
            noise = noise.clamp(-self.radius, self.radius) if self.radius else noise
        with self.added(noise):
            noisy = self.backbone(**batch).logits
        apart = self.weight * self.apart(noisy, clean.logits, labels)
        if self.bregman:
            with torch.no_grad():
                self._follow()
                before = self.average(**batch).logits
            apart = apart + self.bregman * self.apart(clean.logits, before, labels)
        task_loss = zero_without_labels(clean.loss, labels)
        return BaselineOutput(loss=task_loss + apart, logits=clean.logits, task_loss=task_loss, divergence=apart)

    def _follow(self) -> None:
        """Update the average with the optimizer's last step: once per step, even if a batch comes in several parts."""
        if torch.equal(self.seen, self._watched()):
            return
        self.seen.copy_(self._watched())
        momentum = self.early_momentum if self.share_done <= EARLY else self.momentum
        for mean, weight in zip(self.average.parameters(), self.backbone.parameters(), strict=True):
            mean.lerp_(weight, 1 - momentum)

    def _watched(self) -> torch.Tensor:
        """A trained weight, whose change shows that there was a step. A bias may have no gradient."""
        return self.backbone.get_parameter(self._last_trained)


class R3F(FineNoise):
    """R3F: predictions should not change under random noise on the embeddings.

    Aghajanyan, Shrivastava, Gupta, Goyal, Zettlemoyer, Gupta: Better Fine-Tuning by Reducing Representational Collapse,
    ICLR 2021, arXiv 2008.03156, the objective of R3F.

    loss = task(x) + weight * (KL(p||q) + KL(q||p)), means over the batch, with p = f(x) and q = f(x + z); for a
    regression, the mean squared difference. Neither side is detached and each pass draws its own dropout, as in the
    authors' code, except that there the noised pass does not train the embeddings. Noise of the published size, 1e-5,
    moves a prediction far less than dropout does: in a model with dropout, the divergence is that between two dropout
    draws, twice R-Drop's, in every precision (`FineNoise`). The paper's R4F, which adds a spectral norm on the head, is
    not implemented.

    Args:
        noise: "uniform", z ~ U(-eps, eps), or "normal", z ~ N(0, eps^2).
    """

    def __init__(self, backbone: PreTrainedModel, weight: float, noise: str, eps: float):
        super().__init__(backbone)
        if noise not in R3F_NOISES:
            raise ValueError(f"noise {noise!r} is unknown: choose one of {', '.join(R3F_NOISES)}")
        self.weight, self.noise, self.eps = weight, noise, eps

    def step(self, labels: torch.Tensor, **batch) -> BaselineOutput:
        clean = self.backbone(**batch, labels=labels)
        real = self.real_tokens(**batch)
        drawn = torch.randn_like(real) if self.noise == "normal" else 2 * torch.rand_like(real) - 1
        with self.added(drawn * self.eps * real):
            noisy = self.backbone(**batch).logits
        apart = self.weight * self.apart(clean.logits, noisy, labels)
        task_loss = zero_without_labels(clean.loss, labels)
        return BaselineOutput(loss=task_loss + apart, logits=clean.logits, task_loss=task_loss, divergence=apart)


def _word_embeddings(backbone: PreTrainedModel) -> nn.Embedding:
    return cast(nn.Embedding, backbone.get_input_embeddings())


def mean_embedding_norm(backbone: PreTrainedModel) -> float:
    """The root mean square, over the vocabulary, of the word embeddings' norms."""
    weight = _word_embeddings(backbone).weight.detach()
    norm = torch.linalg.vector_norm(weight, dtype=torch.promote_types(weight.dtype, torch.float32))
    return norm.item() / len(weight) ** 0.5


def _gradient(loss: torch.Tensor, noise: torch.Tensor, retain_graph: bool = False) -> torch.Tensor:
    """The gradient of the loss with respect to the noise, up to a factor; 0 where half precision overflows.

    It is 0, too, for the constant loss that some models return for a batch without labels.
    """
    if not loss.requires_grad:
        return torch.zeros_like(noise)
    (gradient,) = torch.autograd.grad(loss * GRADIENT_SCALE, noise, retain_graph=retain_graph)
    return gradient.nan_to_num(0.0, 0.0, 0.0)


def _per_largest(gradient: torch.Tensor, dim: int | tuple[int, ...]) -> torch.Tensor:
    """The gradient divided by its largest component; 0 if all components are 0."""
    return gradient / gradient.abs().amax(dim, keepdim=True).clamp(min=torch.finfo(gradient.dtype).tiny)


def _norm(noise: torch.Tensor) -> torch.Tensor:
    """The Frobenius norm of each sequence's noise (B, L, H), as (B, 1, 1)."""
    return torch.linalg.vector_norm(noise, dim=(1, 2), keepdim=True)
