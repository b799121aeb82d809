"""Load an encoder's tokenizer and make it fit the encoder: lengths, segment ids, vocabulary size."""

import contextlib
from collections.abc import Iterator

from transformers import AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerBase

from models.encoders import reason, resolve
from utils import InputError, log

# RoBERTa and related types count positions from the pad token's id + 1.
COUNT_FROM_PAD = (
    "camembert",
    "data2vec-text",
    "esm",
    "ibert",
    "mpnet",
    "roberta",
    "roberta-prelayernorm",
    "xlm-roberta",
    "xlm-roberta-xl",
    "xmod",
)


SEGMENTS = "token_type_ids"


def load_tokenizer(
    name: str, cache_dir: str | None, lower_case: bool, slow: bool, flag: str = "--load_model_path", **settings
) -> PreTrainedTokenizerBase:
    """The encoder's tokenizer. It truncates and pads on the right, whatever its files say.

    Args:
        lower_case: force lower case; otherwise the checkpoint's own setting applies.
        slow: use the pure Python tokenizer, which few models have in transformers 5.
        flag: where the name comes from, for messages.
        settings: other settings of the tokenizer; unknown ones have no effect.

    Raises:
        InputError: the tokenizer's files are missing or damaged.
    """
    changes = settings | ({"do_lower_case": True} if lower_case else {})
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            resolve(name, flag), cache_dir=cache_dir, use_fast=not slow, trust_remote_code=False, **changes
        )
    except Exception as error:
        raise InputError(f"{flag} {name}: its tokenizer cannot be loaded ({reason(error)})") from None
    # Without the files, transformers 5 silently makes a tokenizer with an empty vocabulary.
    if len(tokenizer) <= len(tokenizer.all_special_ids):
        raise InputError(f"{flag} {name}: its tokenizer cannot be loaded (the vocabulary is missing)")
    if slow and tokenizer.is_fast:
        log.info("--use_slow_tokenizer: transformers 5 has only a fast tokenizer for this model, which is used")
    if lower_case and tokenizer.tokenize("A") != tokenizer.tokenize("a"):
        log.info("--do_lower_case: this model's tokenizer knows no such setting; the text keeps its case")
    # Encoders count positions from the left.
    tokenizer.padding_side = tokenizer.truncation_side = "right"
    tokenizer.own_limits = {"model_max_length": tokenizer.model_max_length}
    if tokenizer.is_fast:
        backend = tokenizer.backend_tokenizer
        tokenizer.own_limits |= {"truncation": backend.truncation, "padding": backend.padding}
    return tokenizer


@contextlib.contextmanager
def as_loaded(tokenizer: PreTrainedTokenizerBase) -> Iterator[None]:
    """Context in which a tokenizer from `load_tokenizer` has its files' own length limits again, for saving."""
    own = getattr(tokenizer, "own_limits", None)
    if own is None:  # not from `load_tokenizer`
        yield
        return
    limit = tokenizer.model_max_length
    tokenizer.model_max_length = own["model_max_length"]
    if "truncation" in own:
        backend = tokenizer.backend_tokenizer  # every call of the tokenizer sets both again
        backend.enable_truncation(**own["truncation"]) if own["truncation"] else backend.no_truncation()
        backend.enable_padding(**own["padding"]) if own["padding"] else backend.no_padding()
    try:
        yield
    finally:
        tokenizer.model_max_length = limit


def positions(config: PreTrainedConfig) -> int:
    """The number of tokens that an encoder has positions for."""
    counted_from = (config.pad_token_id or 0) + 1 if config.model_type in COUNT_FROM_PAD else 0
    return config.max_position_embeddings - counted_from


def fit_together(
    name: str,
    config: PreTrainedConfig,
    tokenizer: PreTrainedTokenizerBase,
    flag: str = "--load_model_path",
    encoder: str = "its encoder",
) -> None:
    """Limit the tokenizer to the encoder's positions, and let it make segment ids only if the encoder has segments.

    Args:
        name, flag: where the tokenizer comes from, for messages.
        encoder: how messages call the encoder.

    Raises:
        InputError: the tokenizer knows more tokens than the encoder.
    """
    if len(tokenizer) > config.vocab_size:
        raise InputError(f"{flag} {name}: its tokenizer has {len(tokenizer)} tokens, {encoder} {config.vocab_size}")
    if config.model_type in COUNT_FROM_PAD and config.pad_token_id is None:
        raise InputError(f"{flag} {name}: its config.json has no pad_token_id")
    tokenizer.model_max_length = min(tokenizer.model_max_length, positions(config))
    names = tokenizer.model_input_names
    if (getattr(config, "type_vocab_size", 0) or 0) < 2:  # as the tokenizers of RoBERTa and related types do
        names = [name for name in names if name != SEGMENTS]
    elif SEGMENTS not in names and "model_input_names" not in tokenizer.init_kwargs:
        # In transformers 5, ALBERT's tokenizer and generic ones number the segments of a pair only if they are told to.
        names = [*names, SEGMENTS] if 1 in tokenizer("a", "a", return_token_type_ids=True)[SEGMENTS] else names
    if names != tokenizer.model_input_names:
        tokenizer.model_input_names = tokenizer.init_kwargs["model_input_names"] = names  # the latter are saved
