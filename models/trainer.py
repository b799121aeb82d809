"""ASA with the Hugging Face Trainer: two lines of a script change.

    model = AsaModel(model)
    trainer = AsaTrainer(model, args, train_dataset=..., ...)  # in place of Trainer(model, args, ...)

Evaluation, prediction and saving use the plain model, as before. A checkpoint is a stock folder, which
`AutoModelFor*.from_pretrained` loads, and the adversaries are in a separate file next to it.
"""

import contextlib
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import Trainer

from .asa import AsaModel
from .divergence import IGNORED_LABEL
from .encoder_types import plain

ADVERSARIES = "adversaries.safetensors"
LOGGED = ("divergence", "penalty", "keep_rate", "fully_masked")
# Methods overridden below; a version of the library without them would never call the overrides.
STEPS_OF_THE_TRAINER = (
    "loss_is_scaled_for_ga",
    "get_batch_samples",
    "_get_num_items_in_batch",
    "_clip_grad_norm",
    "_get_grad_norm",
    "_issue_warnings_after_load",
    "_inner_training_loop",
)


class AsaTrainer(Trainer):
    """A `transformers.Trainer` for an `AsaModel`; it takes the Trainer's arguments and one more.

    Differences from the Trainer:

    - The loss of an optimizer step is that of its whole batch, however the batch is split into parts and processes,
      even if the parts have unequal numbers of labels. Only a regression under `protocol="release"` and the
      adversaries' gradient under a row budget depend on the split. Label smoothing and `compute_loss_func` replace only
      the task loss.
    - `max_grad_norm` clips the encoder and the adversaries separately. The adversaries' gradient norm is often a
      hundred times that of the encoder: clipped together, the encoder would hardly move.
    - The logs include the parts of the loss, the mean keep rate of the adversaries and their gradient norm.
    - Checkpoints include the adversaries, and `resume_from_checkpoint` needs them.

    Args:
        adversary_learning_rate: learning rate of the adversaries, under the same schedule; None for the common one. If
            you pass an optimizer, its own rates apply.

    Raises:
        ValueError: the model is not an `AsaModel`, or the training arguments ask for an unsupported kind of distributed
            training or for noise on the embeddings.
        RuntimeError: the Trainer of this transformers version is not supported.
    """

    model: Any  # an AsaModel; within `_backbone_alone`, its backbone

    loss_is_scaled_for_ga = True

    def __init__(self, *args, adversary_learning_rate: float | None = None, **settings):
        if missing := [name for name in STEPS_OF_THE_TRAINER if not hasattr(Trainer, name)]:
            raise RuntimeError(
                f"AsaTrainer does not work with transformers {transformers.__version__}, whose Trainer has no"
                f" {missing[0]}: use 5.23"
            )
        super().__init__(*args, **settings)
        if not isinstance(self.model, AsaModel):
            raise ValueError(f"AsaTrainer trains an AsaModel, not {type(self.model).__name__}: give it AsaModel(model)")
        if self.args.n_gpu > 1:
            raise ValueError(
                f"{self.args.n_gpu} GPUs in one process do not work with ASA: start a process for each with torchrun,"
                " or set CUDA_VISIBLE_DEVICES to one"
            )
        if self.args.fsdp or self.is_deepspeed_enabled:
            raise ValueError("AsaTrainer does not work with FSDP or DeepSpeed: leave them out")
        if self.args.neftune_noise_alpha is not None:
            raise ValueError("AsaTrainer does not work with neftune_noise_alpha: leave it out")
        from transformers.trainer_utils import validate_quantization_for_training  # old versions do not have it

        validate_quantization_for_training(self.model.backbone)
        self.adversary_learning_rate = adversary_learning_rate
        self._sums: dict[str, torch.Tensor] = {}  # sums of the logged figures, over the steps since the last log
        self._steps = 0

    def create_optimizer(self, *args) -> torch.optim.Optimizer:
        """The Trainer's optimizer, with separate groups for the adversaries if they have their own learning rate."""
        given = self.optimizer is not None
        optimizer = super().create_optimizer(*args)
        if given or self.adversary_learning_rate is None:
            return optimizer
        adversaries = {*self.model.adversaries.parameters()}
        for group in list(optimizer.param_groups):
            moved = [parameter for parameter in group["params"] if parameter in adversaries]
            group["params"] = [parameter for parameter in group["params"] if parameter not in adversaries]
            optimizer.add_param_group(group | {"params": moved, "lr": self.adversary_learning_rate})
        return optimizer

    def _inner_training_loop(self, *args, **settings):
        self._sums, self._steps = {}, 0  # drop figures that an earlier training has not logged
        return super()._inner_training_loop(*args, **settings)

    def get_batch_samples(self, *args) -> tuple[list, torch.Tensor | None]:
        """The parts of the next batch, and (2,): its number of examples and of labels, over all processes."""
        parts, sizes = super().get_batch_samples(*args)
        self._steps += bool(parts)  # an iterable data set ends its epoch with an empty batch
        return parts, None if sizes is None else self.accelerator.reduce(sizes)

    def _get_num_items_in_batch(self, batch_samples: list, device: torch.device) -> torch.Tensor | None:
        """The same numbers for this process alone; evaluation calls this too."""
        if not batch_samples or "labels" not in batch_samples[0]:
            return None
        return torch.stack([_sizes(batch["labels"]) for batch in batch_samples]).sum(0).to(device)

    def compute_loss(self, model: nn.Module, inputs: dict, return_outputs: bool = False, num_items_in_batch=None):
        """The contribution of this part of a batch to the optimizer step's loss; in evaluation, the Trainer's own loss.

        Args:
            num_items_in_batch: (2,), the batch's number of examples and of labels. Without it, this part is taken for
                the whole batch.
        """
        if not model.training:
            labelled = None if num_items_in_batch is None else num_items_in_batch[1]
            if labelled is not None and self.compute_loss_func and self.args.average_tokens_across_devices:
                labelled = self.accelerator.reduce(labelled)  # the Trainer multiplies the loss by their number
            return super().compute_loss(model, inputs, return_outputs, labelled)
        outputs = model(**inputs)
        labels, task_loss = inputs["labels"], outputs.task_loss
        if num_items_in_batch is None:
            num_items_in_batch = self.accelerator.reduce(_sizes(labels))
        apart = outputs.divergence
        penalty = outputs.loss - task_loss - apart
        # The gradient is averaged over the processes, but their contributions to the loss have to be summed.
        processes = self.accelerator.num_processes
        examples, labelled = processes * _sizes(labels).to(task_loss.dtype) / num_items_in_batch.clamp(min=1)
        task_loss = labelled * task_loss
        over = labelled if self.model.of_words else examples  # the divergence is a mean over these
        if other := self.compute_loss_func or self.label_smoother:
            task_loss = processes * other(outputs, labels, num_items_in_batch=num_items_in_batch[1].clamp(min=1))
        given = [name for name in LOGGED if outputs.get(name) is not None]
        figures = {name: (over if name == "divergence" else examples) * outputs[name].mean() for name in given}
        self._note(task_loss=task_loss, **figures)
        loss = task_loss + over * apart + examples * penalty
        return (loss, outputs) if return_outputs else loss

    def _clip_grad_norm(self, model: nn.Module) -> torch.Tensor:
        return self._clip(self.args.max_grad_norm)

    def _get_grad_norm(self, model: nn.Module, grad_norm: torch.Tensor | None = None) -> torch.Tensor:
        return self._clip(float("inf")) if grad_norm is None else grad_norm

    def _clip(self, most: float) -> torch.Tensor:
        """Clip encoder and adversaries, each by its own norm; return the encoder's norm before clipping."""
        norm = self.accelerator.clip_grad_norm_(self.model.backbone.parameters(), most)  # unscales both
        of_adversaries = nn.utils.clip_grad_norm_(self.model.adversaries.parameters(), most)
        # Under fp16 the norm may overflow: the optimizer then skips the step.
        finite = of_adversaries.isfinite()
        self._note(adversary_grad_norm=of_adversaries.where(finite, 0.0), finite=finite.to(of_adversaries.dtype))
        return norm

    def _note(self, **figures: torch.Tensor) -> None:
        for name, figure in figures.items():
            self._sums[name] = self._sums.get(name, 0.0) + figure.detach()  # on the device until it is logged

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """The Trainer's method, which also logs this process's means over the optimizer steps since the last log.

        The adversaries' gradient norm is averaged over the steps in which it is finite.
        """
        if "loss" in logs:
            sums = {name: total.item() for name, total in self._sums.items()}
            finite, norms = sums.pop("finite", 0), sums.pop("adversary_grad_norm", 0.0)
            logs |= {name: total / self._steps for name, total in sums.items()}
            logs |= {"adversary_grad_norm": norms / finite} if finite else {}
            self._sums, self._steps = {}, 0
        super().log(logs, start_time)

    def _set_signature_columns_if_needed(self) -> None:
        with self._backbone_alone():
            super()._set_signature_columns_if_needed()

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        with _names_in_memory(plain(self.model.backbone)), self._backbone_alone():
            super()._save(output_dir)
        if self.args.should_save:
            save_file(
                self.model.adversaries.state_dict(), Path(output_dir or self.args.output_dir or ".") / ADVERSARIES
            )

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        adversaries = self._saved_adversaries(resume_from_checkpoint)
        with self._backbone_alone():
            super()._load_from_checkpoint(resume_from_checkpoint)
        self.model.adversaries.load_state_dict(adversaries)

    def _load_best_model(self) -> None:
        folder = str(self.state.best_model_checkpoint)
        here = Path(folder).is_dir()  # or on the first machine alone, of which the Trainer warns
        adversaries = self._saved_adversaries(folder) if here else {}
        with self._backbone_alone():
            super()._load_best_model()
        self.model.adversaries.load_state_dict(adversaries, strict=here)

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """Raise an error for weights that a checkpoint lacks, about which the Trainer only warns."""
        super()._issue_warnings_after_load(load_result)
        missing, state = {*load_result.missing_keys}, self.model.state_dict()
        loaded = {value.data_ptr() for name, value in state.items() if name not in missing}  # or by a tied name
        not_saved = self.model._keys_to_ignore_on_save or ()
        lost = [name for name in missing.difference(not_saved) if state[name].data_ptr() not in loaded]
        if lost:
            raise ValueError(
                f"the checkpoint lacks {len(lost)} of the model's weights, {min(lost)} among them: it is another"
                " model's, or has other names for them"
            )

    def _saved_adversaries(self, folder: str) -> dict[str, torch.Tensor]:
        path = Path(folder) / ADVERSARIES
        if not path.is_file():
            raise ValueError(f"{folder} has no {ADVERSARIES}: it is not a checkpoint of an AsaTrainer")
        adversaries = load_file(path)
        if adversaries.keys() != self.model.adversaries.state_dict().keys():
            raise ValueError(f"{path} has the adversaries of other layers than this AsaModel, or of another encoder")
        return adversaries

    @contextlib.contextmanager
    def _backbone_alone(self):
        """Context in which the Trainer's model is the backbone, so that stock models are saved and loaded."""
        whole, self.model = self.model, self.model.backbone
        try:
            yield
        finally:
            self.model = whole


@contextlib.contextmanager
def _names_in_memory(model: Any):
    """Context in which a model is saved under the names that its weights have in memory.

    By default the library saves under the names of the model's original file, but the Trainer loads a checkpoint by the
    names in memory.
    """
    given = {name: value for name, value in vars(model).items() if name == "_weight_conversions"}
    model._weight_conversions = []  # as for a model whose file has the same names
    try:
        yield
    finally:
        del model._weight_conversions
        vars(model).update(given)


def _sizes(labels: torch.Tensor) -> torch.Tensor:
    """(2,): the number of examples and of labels in a part of a batch, on its device."""
    count = ((labels != IGNORED_LABEL) | labels.is_floating_point()).sum()  # for a regression, every target
    return torch.stack([torch.full_like(count, len(labels)), count])
