"""Masked language modelling: train an encoder further on plain text, with or without ASA.

python run_mlm.py --train_file text.txt --dev_file held_out.txt --load_model_path all-MiniLM-L6-v2 --output_dir mlm
"""

from collections.abc import Sequence

from data.own_text import text_task
from training import arguments
from utils import InputError, run_script


def main(argv: Sequence[str] | None = None) -> None:
    """Train and evaluate, as the arguments request.

    Raises:
        InputError: an argument or an input file cannot be used, and nothing but caches has been written; or training
            cannot go on: its loss is not finite, or memory or disk is full.
        Interrupted: by SIGTERM or Ctrl-C in training; the state has been saved.
    """
    args = arguments.of_script("run_mlm", argv)
    task = text_task(args)
    args.task_name = task.name
    # Imported here because they take seconds to load: --help and argument errors do not have to wait for them.
    from transformers import AutoModelForMaskedLM

    from data import metrics
    from data.batches import padding
    from data.cache import cached
    from data.features import Features
    from data.masking import MaskedCollator, MaskedRows, Masking, packed_features
    from training.evaluation import Head, of_masked_words
    from training.run import execute, prepare

    examples, config, tokenizer = prepare(args, task, {})
    masking = Masking.of(tokenizer, args.mlm_probability, args.whole_word_mask)
    settings = {"packing": not args.no_packing, "whole_words": args.whole_word_mask}
    features = examples.map(
        cached(args.token_cache_dir, packed_features, tokenizer, max_seq_length=args.max_seq_length, **settings)
    )

    def masked(rows: Features) -> Features:
        trained_on = rows is features.train
        found = MaskedRows(rows, masking, args.seed if trained_on else None)
        if not any(found[row]["words"] for row in range(len(found))):
            files = args.train_file if trained_on else args.dev_file
            raise InputError(
                f"{', '.join(files or [args.dataset_name])}: no word to mask for this tokenizer: give more text"
                f"{', or leave out --whole_word_mask' * args.whole_word_mask}"
            )
        return found

    head = Head(
        AutoModelForMaskedLM,
        collate=MaskedCollator(tokenizer, **padding(args)),
        score=lambda rows, figures: metrics.of_masked_words(figures),
        write=None,
        summary=of_masked_words,
    )
    execute(args, task, head, config, tokenizer, features.map(masked))


if __name__ == "__main__":
    run_script(main)
