"""What ASA is compared with: published ways to regularise fine-tuning, one module each.

Each is a module around the backbone, as `AsaModel` is: in training mode `forward(**batch)` makes the step's loss, and
in evaluation mode it is the backbone. `loss` is `task_loss` + `divergence`, the latter as it is weighted there. The
divergence of two predictions is ASA's own (`models.divergence`), so that all methods have the same idea of it for
sentences, choices, words and regressions.
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

# The loss whose gradient directs the noise is scaled by it, so that float16 does not lose the gradient; what is done
# with the gradient does not depend on its length.
GRADIENT_SCALE = 2.0**10

EARLY = 0.1  # the share of SMART's training in which the average follows faster


@dataclass
class BaselineOutput(ModelOutput):
    """What the methods of this file return in training mode.

    loss: task_loss + divergence; scalar, the figure to call `backward` on.
    logits: predictions of the pass without noise (of FreeLB, which has none: the first), in the backbone's own shape.
    task_loss: the mean over labels; scalar. None where the whole loss is one.
    divergence: what the method adds, with its weights, the mean over examples; scalar.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    task_loss: torch.Tensor | None = None
    divergence: torch.Tensor | None = None


class Baseline(nn.Module):
    """The frame: `step` in training mode, the backbone in evaluation mode."""

    def __init__(self, backbone: PreTrainedModel):
        super().__init__()
        self.backbone = backbone
        self.of_words = predicts_masked_words(backbone)

    def forward(self, **batch):
        """Raises `ValueError` in training without labels."""
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

    loss = (task_1 + task_2) / 2 + alpha * (KL(p_1||p_2) + KL(p_2||p_1)) / 2, means over the batch, both sides with
    their gradient. As in the paper, the two passes are one over the batch repeated.

    The authors' alphas are not comparable with one another. The paper's equation 4 sums the two task losses, so that
    its alpha is twice the one here. In the authors' example code the task losses are averaged, but the divergence is
    summed over the batch; in their BERT for GLUE the task losses are summed too, and its classification is that of
    alpha = B / 4 here, with batches of B examples.

    Args:
        alpha: weight of the divergence; of a regression, of the mean squared difference.
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
    """ASA with masks drawn at random in place of learned ones, which shows what the adversary contributes.

    This is our ablation and not a published method. The two passes, the divergence, the bias and the rule for rows
    whose every real key is masked are those of ASA. Each query-key pair is kept with the same probability, with one
    draw for all heads. There is no penalty, and there are no parameters besides the backbone's.

    Args:
        keep_rate: the probability with which a pair is kept.
        budget: where it is given, each row hides exactly as many keys as under `AsaModel`'s budget, with the same bias,
            in place of the keep rate: the control for that method.
        protocol, layers, one_forward: as for `AsaModel`.
    """

    def __init__(
        self,
        backbone: nn.Module,
        keep_rate: float,
        protocol: str = "corrected",
        layers: Iterable[int] | None = None,
        one_forward: bool = True,
        budget: float | None = None,
    ):
        super().__init__(backbone, 0.0, protocol, one_forward, layers, budget=budget)
        self.adversaries = nn.ModuleList(adversary and RandomScores(keep_rate) for adversary in self.adversaries)

    def forward(self, **batch):
        """As `AsaModel.forward`; the output has no penalty."""
        output = super().forward(**batch)
        if self.training:
            output = AsaOutput(**{name: value for name, value in output.items() if name != "penalty"})
        return output


class RandomScores(nn.Module):
    """In an adversary's place: scores (B, L, L) that are positive with the probability `keep_rate`."""

    def __init__(self, keep_rate: float):
        super().__init__()
        self.keep_rate = keep_rate

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        rows, length, _ = hidden_states.shape
        return self.keep_rate - torch.rand(rows, length, length, device=hidden_states.device)


class EmbeddingNoise(Baseline):
    """What the methods share that add noise to the embeddings of the real tokens."""

    def real_tokens(
        self, input_ids: torch.Tensor | None = None, attention_mask: torch.Tensor | None = None, **_
    ) -> torch.Tensor:
        """(sequences, L, width of the embeddings): 1 on real tokens, 0 on padding, in the type noise has: float32.

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
        """Within this context the word embeddings are those of the model plus the noise."""
        embeddings = _word_embeddings(self.backbone)

        def noisy(module: nn.Module, inputs: tuple, output):
            # I-BERT's own class of embeddings gives the scale of its integers, too.
            return (output[0] + noise, *output[1:]) if isinstance(output, tuple) else output + noise

        hook = embeddings.register_forward_hook(noisy)
        try:
            yield
        finally:
            hook.remove()

    def apart(self, p: torch.Tensor, q: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """KL(p||q) + KL(q||p), the mean over examples; of a regression the mean squared difference."""
        config = self.backbone.config
        factor = 1 if is_regression(config, p, labels) else 2
        return factor * divergence(config, p, q, labels, of_words=self.of_words)


def _own_dropout(attention: nn.Module) -> float:
    """The dropout that a layer's attention applies without a module, as EuroBERT's does; 0 for any other module."""
    share = getattr(attention, "attention_dropout", 0)
    return share if isinstance(share, float) else 0


class FineNoise(EmbeddingNoise):
    """What the methods share whose noise is of the size 1e-5: precision enough to tell what the noise does.

    The noise is added in float32, but under bf16 or fp16 the encoder's matrix products round their inputs far more
    coarsely, and two passes then differ by their rounding. In a model with dropout that does not matter: each pass has
    a draw of its own, which moves the prediction far more than noise or rounding. A model without dropout computes in
    float32 here, whatever the run's precision. `python -m benchmarks.noise` measures both.
    """

    def forward(self, **batch):
        """As `Baseline.forward`, but a training step without dropout is computed in float32, even under autocast."""
        dropout = any(
            module.training and (module.p if isinstance(module, nn.Dropout) else _own_dropout(module))
            for module in self.modules()
        )
        precise = self.training and not dropout
        device = _word_embeddings(self.backbone).weight.device.type
        with torch.autocast(device, enabled=False) if precise else contextlib.nullcontext():
            return super().forward(**batch)


class FreeLB(EmbeddingNoise):
    """FreeLB: training on each of K ascent steps of noise on the embeddings.

    Zhu, Cheng, Gan, Sun, Goldstein, Liu: FreeLB: Enhanced Adversarial Training for Natural Language Understanding,
    ICLR 2020, arXiv 1909.11764, algorithm 1.

    The noise d of a sequence with n real tokens of width H starts as U(-1, 1) * init / sqrt(n * H). Then
    loss = the mean of task(x + d_1), ..., task(x + d_K), with d_k+1 = P(d_k + lr * g / |g|), g being the gradient of
    task(x + d_k) with respect to d_k, |.| the Frobenius norm of a sequence's noise, and P the projection on the ball
    of radius max_norm. As in the paper, the K passes have one draw of dropout.

    The authors call `backward` in each step, which gives the gradients of the parameters and of the noise at once. Here
    the step's loss is a single one, so that the training loop is every method's: the activations of all K passes are
    kept until its `backward`, K times the memory, and K - 1 of them are gone through once more for the noise.

    The sizes lr, init and max_norm are relative to the word embeddings: they are stated for an encoder whose embeddings
    have the norm `embedding_norm`, and multiplied by this encoder's own norm, before training, over that one. So the
    published sizes hold unchanged on the encoder they were published for, and move the embeddings of any other by the
    same share of their length.

    The defaults of the command line are the authors' for RoBERTa-large on SST-2. They have others for each task: on
    CoLA lr 0.025, init 0.4, max_norm 0.3, on MRPC 0.04, 0.64, 0.4, with 3 steps. The norm is `mean_embedding_norm`,
    sqrt(H * (mean^2 + deviation^2)) in terms of the matrix's components:

        RoBERTa-large       4.4   -0.018, 0.135 and 0.136, of two models fine-tuned from it, in the weight statistics
                                  of the repository PaddlePaddle/GraphNet
        RoBERTa-base        3.6   -0.012, 0.131, from there too
        BERT-base, uncased  1.4   -0.028, 0.043, from there too
        all-mpnet-base-v2   2.39  measured
        all-MiniLM-L6-v2    1.09  measured: unscaled, the published sizes are four times too large for it

    The authors' code for RoBERTa makes one pass more than it has steps; their code for ALBERT and the paper's algorithm
    make as many.

    Args:
        steps: K.
        lr: how far a step of the ascent goes.
        init: size of the first noise.
        max_norm: the radius; 0 for no bound.
        embedding_norm: the norm that the three are given for; 0 takes them as they stand.
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
            # All but the last put the generators back, so that the next draws the same dropout.
            with self.added(noise), torch.random.fork_rng(device, enabled=remaining > 0):
                outputs.append(self.backbone(**batch, labels=labels))
            losses.append(zero_without_labels(outputs[-1].loss, labels))
            if remaining:
                # MobileBERT's embeddings read their neighbours, of the last token the padding.
                gradient = _per_largest(_gradient(losses[-1], noise, retain_graph=True) * real, dim=(1, 2))
                # Its largest component is 1, or all are 0.
                ascent = gradient / _norm(gradient).clamp(min=1)
                noise = self._project(noise.detach() + self.lr * ascent)
        return BaselineOutput(loss=torch.stack(losses).mean(), logits=outputs[0].logits)

    def _project(self, noise: torch.Tensor) -> torch.Tensor:
        return noise * (self.max_norm / _norm(noise)).clamp(max=1) if self.max_norm else noise


class Smart(FineNoise):
    """SMART: predictions should not change under adversarial noise, nor fast over the steps of training.

    Jiang, He, Chen, Liu, Gao, Zhao: SMART: Robust and Efficient Fine-Tuning for Pre-trained Natural Language Models
    through Principled Regularized Optimization, ACL 2020, arXiv 1911.03437, equations 1 to 3 and algorithm 1.

    loss = task(x) + weight * l(f(x + d), f(x)) + bregman * l(f(x), f'(x)), means over the batch, where
    l(p, q) = KL(p||q) + KL(q||p), or the squared difference of a regression. The noise d starts as N(0, noise^2), and
    in each of the inner steps goes up by step_size times the gradient of l(f(x + d), f(x)), f(x) being fixed, over
    that gradient's largest component. f' is the backbone with weights averaged over the steps, w' = momentum * w' +
    (1 - momentum) * w, and without dropout; it is part of this module's state, and of no checkpoint. As in the paper,
    the momentum is smaller in the first tenth of the training steps.

    The authors' code (MT-DNN) has no averaged weights at all: with bregman 0 this is their code's method, otherwise it
    is the paper's, and the comparison table has a row for each. From the first version of that code, where paper and
    code differ: the gradient is normalised token by token, not over the whole sequence; and by default noise has no
    bound, while the paper's would be far below the step. Later versions normalise the noise itself, which is then a
    thousand times larger. The authors take the target of each half of l for fixed, which near l = 0 halves its
    gradient.

    Each pass draws its own dropout, so that l is not 0 without noise.

    Args:
        weight, bregman: weights of the two terms; bregman 0 leaves out the second.
        noise, step_size, steps: start, step size and number of steps of the inner ascent.
        radius: bound of the noise in the maximum norm; 0 for no bound.
        momentum, early_momentum: momentum of the averaged weights after, and in, the first tenth of the training.

    Attributes:
        share_done: how much of the training is done, from 0 to 1; set by the training loop. Without a loop that sets
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
            self.average = copy.deepcopy(backbone).requires_grad_(False)
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
        """Take the optimizer's last step into the average: once, in however many parts a batch comes."""
        if torch.equal(self.seen, self._watched()):
            return
        self.seen.copy_(self._watched())
        momentum = self.early_momentum if self.share_done <= EARLY else self.momentum
        for mean, weight in zip(self.average.parameters(), self.backbone.parameters(), strict=True):
            mean.lerp_(weight, 1 - momentum)

    def _watched(self) -> torch.Tensor:
        """The weight that shows whether there was a step: the head's last one. A bias may have no gradient."""
        return [parameter for parameter in self.backbone.parameters() if parameter.ndim > 1][-1]


class R3F(FineNoise):
    """R3F: predictions should not change under random noise on the embeddings.

    Aghajanyan, Shrivastava, Gupta, Goyal, Zettlemoyer, Gupta: Better Fine-Tuning by Reducing Representational Collapse,
    ICLR 2021, arXiv 2008.03156, the objective of R3F.

    loss = task(x) + weight * (KL(p||q) + KL(q||p)), means over the batch, p = f(x), q = f(x + z), both with their
    gradient and a draw of dropout of their own, as in the authors' code, except that there the noised pass does not
    train the embeddings; of a regression, the mean squared difference.
    Noise of the published size, 1e-5, moves a prediction by far less than dropout does: in a model with dropout the
    divergence is that of two draws of it, twice R-Drop's, in every precision (`FineNoise`). The paper's R4F, a spectral
    norm on the head, is not here.

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
    """The root mean square of the norms of the word embeddings, over the vocabulary."""
    weight = _word_embeddings(backbone).weight.detach()
    norm = torch.linalg.vector_norm(weight, dtype=torch.promote_types(weight.dtype, torch.float32))
    return norm.item() / len(weight) ** 0.5


def _gradient(loss: torch.Tensor, noise: torch.Tensor, retain_graph: bool = False) -> torch.Tensor:
    """The loss's gradient with respect to the noise, up to a factor; 0 where half precision overflows."""
    (gradient,) = torch.autograd.grad(loss * GRADIENT_SCALE, noise, retain_graph=retain_graph)
    return gradient.nan_to_num(0.0, 0.0, 0.0)


def _per_largest(gradient: torch.Tensor, dim: int | tuple[int, ...]) -> torch.Tensor:
    """The gradient over its largest component; 0 where all are."""
    return gradient / gradient.abs().amax(dim, keepdim=True).clamp(min=torch.finfo(gradient.dtype).tiny)


def _norm(noise: torch.Tensor) -> torch.Tensor:
    """The Frobenius norm of each sequence's noise (B, L, H), as (B, 1, 1)."""
    return torch.linalg.vector_norm(noise, dim=(1, 2), keepdim=True)
