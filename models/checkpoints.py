"""Save and load: plain state dicts under the release's names, and stock Hugging Face folders.

The release names an adversary `<prefix>.encoder.adversary.<layer>.{query,key}.{weight,bias}`, where `<prefix>` is the
backbone's (`bert`, `roberta`), and everything else as Hugging Face does. Encoder types that the release does not have
(`distilbert`, ...) follow the same rule. The release's own code can load a saved file, even strictly: the file includes
the tensors that only its modules have, see `unused_by_us`.
"""

import pickle
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
from accelerate.utils import extract_model_from_parallel
from safetensors.torch import load_file
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from models.asa import AsaModel
from models.encoder_types import predicts_masked_words
from models.encoders import check_same_type, load_config, load_folder
from models.heads import HEADS, class_words, reorder_classes, same_head
from models.tokenizer import as_loaded
from utils import InputError, atomic_file, atomic_folder, counted

if TYPE_CHECKING:
    from transformers.models.auto.auto_factory import _BaseAutoModelClass

ADVERSARY = re.compile(r"\w+\.encoder\.adversary\.(\d+)\.(?:query|key)\.(?:weight|bias)")
# Index buffers that older transformers versions stored; current models make their own.
OBSOLETE = re.compile(r"\w+\.embeddings\.(?:position_ids|token_type_ids)")
# Keys in which trainers nest a state dict, and prefixes that they put before its names.
NESTED = ("state_dict", "model_state_dict", "model", "module")
WRAPPED = ("module.", "_orig_mod.", "model.")
LFS_POINTER = b"version https://git-lfs.github.com/"
SAVED_BY_TORCH = (b"PK", b"\x80")  # how its files begin: an archive, or in old versions a pickle


def backbone_of(model: nn.Module) -> PreTrainedModel:
    """The Hugging Face model inside a wrapper; an unwrapped model itself."""
    inner = _unwrapped(model)
    return cast(PreTrainedModel, getattr(inner, "backbone", inner))


def _unwrapped(model: nn.Module) -> nn.Module:
    return extract_model_from_parallel(model, keep_torch_compile=False)


def release_state_dict(model: nn.Module) -> dict[str, torch.Tensor]:
    """The weights under the release's names; the tensors share storage with the parameters.

    Args:
        model: an `AsaModel`, another wrapper with a `backbone`, or a Hugging Face model, which has no adversaries. It
            may be compiled or distributed.
    """
    backbone = backbone_of(model)
    state = dict(backbone.state_dict())
    if isinstance(model := _unwrapped(model), AsaModel):
        prefix = f"{backbone.base_model_prefix}.encoder.adversary"
        state |= {f"{prefix}.{name}": tensor for name, tensor in model.adversaries.state_dict().items()}
    return state


def load_release_checkpoint(model: nn.Module, source: str | Path | Mapping[str, torch.Tensor]) -> None:
    """Copy weights under the release's names into the model.

    Args:
        model: as for `release_state_dict`. A plain model takes checkpoints with and without adversaries.
        source: a state dict, or the path of one (`torch.save` or safetensors).

    Raises:
        InputError: the file is not a state dict, or belongs to another model. The model is then unchanged.
    """
    state = plain_names(source) if isinstance(source, Mapping) else read_state_dict(source)
    where = "checkpoint" if isinstance(source, Mapping) else str(source)
    state = {name: tensor for name, tensor in state.items() if not OBSOLETE.fullmatch(name)}
    if not isinstance(_unwrapped(model), AsaModel):
        state = {name: tensor for name, tensor in state.items() if not ADVERSARY.fullmatch(name)}

    target = release_state_dict(model)
    # The release's RoBERTa has a pooler under every head, as in older versions of transformers.
    backbone = backbone_of(model)
    of_pooler = f"{backbone.base_model_prefix}.pooler."
    pooler = {name: state.pop(name) for name in list(state) if name.startswith(of_pooler) and name not in target}
    # A safetensors file has only one name of each group of tied weights.
    given = {tensor.data_ptr(): state[name] for name, tensor in target.items() if name in state}
    state |= {name: given[tensor.data_ptr()] for name, tensor in target.items() if tensor.data_ptr() in given}
    missing, unexpected = target.keys() - state.keys(), state.keys() - target.keys()
    if missing or unexpected:
        name = min(missing or unexpected)
        what = "it has no" if missing else "the model has no"
        raise InputError(
            f"{where}: a checkpoint of another model: {what} {name}"
            f" ({counted(len(missing), 'weight')} missing, {len(unexpected)} not expected)"
        )
    for name, tensor in target.items():
        if state[name].shape != tensor.shape:
            raise InputError(
                f"{where}: a checkpoint of another shape: {name} is {tuple(state[name].shape)},"
                f" the model's is {tuple(tensor.shape)}"
            )
        check_numbers(state[name], f"{where}: {name}")
    with torch.no_grad():
        for name, tensor in target.items():
            tensor.copy_(state[name])
    if pooler:
        found = {name.removeprefix(of_pooler): tensor for name, tensor in pooler.items()}
        # nn.Module's type stub takes every attribute for a tensor or a module.
        backbone.unused_pooler = found  # type: ignore[assignment]


def check_numbers(tensor: torch.Tensor, what: str) -> None:
    """Raise `InputError` if a tensor, called `what` in the message, is not dense or has other than finite numbers."""
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
        raise InputError(f"{what} is not a dense tensor")
    if not tensor.is_floating_point():
        raise InputError(f"{what} holds {str(tensor.dtype).removeprefix('torch.')}, not real numbers")
    if not torch.isfinite(tensor).all():
        raise InputError(f"{what} is not finite: the run that saved it diverged")


def read_state_dict(path: str | Path) -> dict[str, torch.Tensor]:
    """The tensors of a `.bin` or `.safetensors` file. No code in a file is ever executed.

    Raises:
        InputError: the file is missing, damaged, or holds something other than named tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such checkpoint")
    with open(path, "rb") as file:
        start = file.read(len(LFS_POINTER))
        if start == LFS_POINTER:
            raise InputError(f"{path}: a Git LFS pointer in place of the file: fetch it with git lfs pull")
        if start and path.suffix != ".safetensors" and not start.startswith(SAVED_BY_TORCH):
            raise InputError(f"{path}: not a checkpoint: it is neither a file of torch.save nor named *.safetensors")
    try:
        if path.suffix == ".safetensors":
            state = load_file(path)
        else:
            with warnings.catch_warnings(action="ignore"):  # warnings about pickle protocols; only the result matters
                state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise InputError(f"{path}: not a plain state dict: it holds Python objects, which are never loaded") from None
    except Exception as error:  # any exception: the bytes may be anything
        raise InputError(f"{path}: not a readable checkpoint, it may be cut short ({type(error).__name__})") from None
    state = plain_names(state)
    named = isinstance(state, Mapping) and all(
        isinstance(name, str) and isinstance(tensor, torch.Tensor) for name, tensor in state.items()
    )
    if not named:
        raise InputError(f"{path}: not a state dict: names with tensors are expected")
    return state


def plain_names(state):
    """The state dict inside a trainer's file, with Hugging Face's names; anything else is returned unchanged.

    Wrappers put a prefix before each name (`module.`), trainers store the state dict under a key next to their own
    data, and the first checkpoints, converted from TensorFlow, call a norm's weight and bias gamma and beta.
    """
    while isinstance(state, Mapping) and (inside := [key for key in NESTED if isinstance(state.get(key), Mapping)]):
        state = state[inside[0]]
    if not isinstance(state, Mapping) or not all(isinstance(name, str) for name in state):
        return state
    while state and (before := [prefix for prefix in WRAPPED if all(name.startswith(prefix) for name in state)]):
        state = {name.removeprefix(before[0]): tensor for name, tensor in state.items()}
    ends = {".gamma": ".weight", ".beta": ".bias"}
    return {re.sub(r"\.(gamma|beta)$", lambda end: ends[end[0]], name): tensor for name, tensor in state.items()}


def unused_by_us(model: nn.Module) -> dict[str, torch.Tensor]:
    """The tensors that the release's module has in addition to `release_state_dict(model)`, under its names.

    Its embeddings store their position ids. With ASA, its RoBERTa has a pooler under every head, which sentence and
    token heads do not read; without ASA it has none there, nor does its BERT under a token head. The pooler is that of
    the pretrained encoder or of the loaded checkpoint, else one that is always the same.
    """
    backbone = backbone_of(model)
    config, base, prefix = backbone.config, backbone.base_model, backbone.base_model_prefix
    unused = {}
    if (positions := getattr(getattr(base, "embeddings", None), "position_ids", None)) is not None:
        unused[f"{prefix}.embeddings.position_ids"] = positions.clone()
    of_release = isinstance(_unwrapped(model), AsaModel) and type(backbone).__name__.endswith(HEADS)
    if of_release and prefix == "roberta" and getattr(base, "pooler", None) is None:
        weight = next(base.parameters())
        drawn = torch.empty(config.hidden_size, config.hidden_size)
        drawn.normal_(std=config.initializer_range, generator=torch.Generator().manual_seed(0))
        pooler = {"dense.weight": drawn, "dense.bias": torch.zeros(config.hidden_size)}
        pooler |= getattr(backbone, "unused_pooler", {})
        unused |= {f"{prefix}.pooler.{name}": tensor.to(weight.dtype) for name, tensor in pooler.items()}
    return unused


def save_checkpoint(model: nn.Module, path: str | Path) -> None:
    """Save `release_state_dict(model)` and the other tensors of the release, with `torch.save`.

    The file is written completely or not at all, and can be read on any device.
    """
    state = {name: tensor.cpu() for name, tensor in (release_state_dict(model) | unused_by_us(model)).items()}
    with atomic_file(path) as temporary:
        try:
            with open(temporary, "wb") as file:
                torch.save(state, file)
        except RuntimeError as error:  # torch hides a full disk behind its own error
            raise error.__context__ if isinstance(error.__context__, OSError) else error from None


def export(model: nn.Module, tokenizer, folder: str | Path, card: str = "") -> None:
    """Write the plain model and its tokenizer as a stock Hugging Face folder; the adversaries are left out.

    A masked-LM model has no pooler. If the pretrained encoder has one, it is saved too, unchanged, for fine-tuning.

    Args:
        card: the text of README.md, which the Hub shows as the model card.
    """
    backbone, state = backbone_of(model), None
    if predicts_masked_words(backbone) and (pooler := getattr(backbone, "unused_pooler", None)):
        prefix = f"{backbone.base_model_prefix}.pooler"
        state = backbone.state_dict() | {f"{prefix}.{name}": tensor for name, tensor in pooler.items()}
    with atomic_folder(folder) as temporary:
        if card:
            (temporary / "README.md").write_text(card, encoding="utf-8")
        # Saved under the library's current names, even if the encoder's file has TensorFlow's.
        backbone.save_pretrained(temporary, state_dict=state, save_original_format=False)
        try:
            with as_loaded(tokenizer):
                tokenizer.save_pretrained(temporary)
        except Exception as error:
            if type(error) is not Exception:  # tokenizers raises a bare Exception if a file cannot be written
                raise
            raise OSError(str(error)) from error


def saved_classes(source: str | Path, flag: str = "--test_model_file") -> list[str]:
    """The class names of a saved classifier, in order; `LABEL_<i>` if it has none, as in a single weights file.

    Raises:
        InputError: the checkpoint cannot be read, or is not a classifier.
    """
    if Path(source).is_dir():
        return class_words(load_config(str(source), None, None, flag=flag))
    state = read_state_dict(source)
    weights = [state[name] for name in ("classifier.weight", "classifier.out_proj.weight") if name in state]
    if not weights:
        raise InputError(f"{source}: not the checkpoint of a sentence classifier: it has no classifier.weight")
    return [f"LABEL_{index}" for index in range(len(weights[0]))]


def load_saved(
    auto_class: "type[_BaseAutoModelClass]",
    source: str | Path,
    config: PreTrainedConfig,
    attn_implementation: str,
    order: Sequence[int] | None = None,
    flag: str = "--test_model_file",
) -> PreTrainedModel:
    """The plain model that a run, the release or Hugging Face saved.

    Args:
        source: a file for `load_release_checkpoint`, or a Hugging Face folder, which has its own configuration.
        config: the required model: its type, kind of problem and classes.
        order: for each of the model's classes, its index among the folder's classes; None keeps their order.
        flag: where the source comes from, for messages.

    Raises:
        InputError: the checkpoint cannot be read, or belongs to another model.
    """
    if not Path(source).is_dir():
        try:
            model = auto_class.from_config(config, attn_implementation=attn_implementation, dtype=torch.float32)
        except Exception as error:  # the library lets any exception through
            raise InputError(f"the encoder's config.json describes no model that can be made ({error})") from None
        load_release_checkpoint(model, source)
        return model
    saved = load_config(str(source), None, None, flag=flag)
    check_same_type(f"{flag} {source}", saved, config)
    if not same_head(saved, auto_class):
        own = (saved.architectures or [""])[0]
        raise InputError(f"{flag} {source}: not a model fine-tuned for such a task: it is a {own}")
    saved.problem_type, saved.id2label, saved.label2id = config.problem_type, config.id2label, config.label2id
    model, missing = load_folder(auto_class, str(source), saved, None, attn_implementation, flag)
    if missing:
        raise InputError(f"{flag} {source}: not a model fine-tuned for such a task: it has no {missing[0]}")
    if order is not None:
        reorder_classes(model, order)
    return model
