"""run_mlm.py: what it trains, leaves behind and refuses."""

import argparse
import json
import logging
import math
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from children import run_both
from conftest import WORDS, save_tiny_encoder
from double import in_double
from script_runs import message, results_of
from test_data import write
from transformers import AutoModel, AutoModelForMaskedLM, AutoTokenizer

import run_mlm
import run_sent_clas
from data.masking import MaskedRows, Masking, packed_features
from data.own_text import text_task
from data.text import read_documents
from models.checkpoints import read_state_dict
from models.methods import METHODS
from training import arguments, loop
from training.folder import encoder_weights
from training.state import Progress
from utils import InputError, file_sha256


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> dict[str, Path]:
    """A training file of 40 documents, and a held-out one of 12."""
    folder = tmp_path_factory.mktemp("text")
    random = np.random.default_rng(0)
    whole = [word for word in WORDS if word.isalpha() and len(word) > 1]
    documents = [" ".join(random.choice(whole, random.integers(4, 14))) for _ in range(52)]
    return {"train": write(folder / "stories.txt", *documents[:40]), "dev": write(folder / "held.txt", *documents[40:])}


def arguments_of(text: dict[str, Path], encoder, folder: Path, *flags: str) -> list[str]:
    files = ["--train_file", str(text["train"]), "--dev_file", str(text["dev"])]
    given = ["--load_model_path", str(encoder), "--output_dir", str(folder), "--max_seq_length", "24", "--no_cuda"]
    sizes = ["--train_batch_size", "4", "--eval_batch_size", "3", "--learning_rate", "1e-3", "--logging_steps", "1"]
    return [*files, *given, *sizes, *flags]


def run(text: dict[str, Path], encoder, folder: Path, *flags: str) -> Path:
    run_mlm.main(arguments_of(text, encoder, folder, *flags))
    return folder


@pytest.fixture(scope="module")
def trained(text, encoder_folder, tmp_path_factory) -> Path:
    """A run of ASA, of two epochs in parts of two rows."""
    folder = tmp_path_factory.mktemp("mlm") / "run"
    return run(text, encoder_folder, folder, "--num_train_epochs", "2", "--gradient_accumulation_steps", "2")


def test_what_a_run_leaves(trained, text, encoder_folder):
    record = results_of(trained)
    assert record["encoder_sha256"] == file_sha256(Path(encoder_folder) / "model.safetensors")
    resumed = encoder_weights(str(trained / "best"), record)  # though the encoder be another by now
    assert resumed == {"encoder_sha256": record["encoder_sha256"]}
    assert record["finished"]
    assert record["args"]["task_name"] == "stories"
    assert record["unseen"]["train"] == {"documents": 40, "tokens": sum(map(tokens, text["train"].open()))}
    lines = (trained / "eval_results.txt").read_text().splitlines()
    for number, (epoch, line) in enumerate(zip(record["epochs"], lines, strict=True)):
        assert list(epoch["metrics"]) == ["accuracy", "perplexity"]
        assert epoch["eval_score"] == epoch["metrics"]["accuracy"]
        assert epoch["metrics"]["perplexity"] == pytest.approx(math.exp(epoch["eval_loss"]), rel=1e-5)
        assert len(epoch["keep_rate"]) == 2
        assert line == (
            f"Epoch {number}: global step = {epoch['global_step']} | train loss = {epoch['train_loss']:.3f} |"
            f" eval score = {epoch['eval_score']:.2f} | eval loss = {epoch['eval_loss']:.3f}"
        )
    assert record["best"]["eval_loss"] == min(epoch["eval_loss"] for epoch in record["epochs"])
    logged = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in logged] == list(range(1, record["best"]["global_step"] + 1))
    assert all(row["divergence"] > 0 and row["penalty"] > 0 for row in logged)
    assert sorted(path.name for path in trained.iterdir()) == [
        "0_pytorch_model.bin",
        "1_pytorch_model.bin",
        "best",
        "eval_results.txt",
        "metrics.jsonl",
        "results.json",
    ]


@pytest.mark.parametrize("workers", ["0", "1"])
def test_each_epoch_has_masks_of_its_own(workers, text, encoder_folder, tmp_path, monkeypatch):
    seen, optimize = [], loop.optimize

    def noting(run, parts, *given):
        seen.append({tuple(filter(None, row)) for part in parts for row in part["input_ids"].tolist()})  # without [PAD]
        return optimize(run, parts, *given)

    monkeypatch.setattr(loop, "optimize", noting)
    flags = ("--num_train_epochs", "2", "--method", "naive", "--num_workers", workers)
    run(text, encoder_folder, tmp_path / "out", *flags)
    of_epoch = [set().union(*part) for part in (seen[: len(seen) // 2], seen[len(seen) // 2 :])]
    assert len(of_epoch[0]) == len(of_epoch[1]) > 10
    assert not of_epoch[0] & of_epoch[1]


@pytest.mark.parametrize("flags", [(), ("--fsdp",)])
def test_two_processes_train_as_one(flags, text, encoder_folder, tmp_path, monkeypatch):
    """With the same masks; the decoder's weights are those of the embeddings, also where each process has a part."""
    in_double(monkeypatch.setattr)
    given = ("--num_train_epochs", "2", "--gradient_accumulation_steps", "2")
    run(text, encoder_folder, tmp_path / "one", *given)
    argv = arguments_of(text, encoder_folder, tmp_path / "two", *given, *flags)
    statuses, said = run_both("run_mlm", argv, tmp_path, double=True)
    assert statuses == [0, 0], said
    one, two = [results_of(tmp_path / name)["epochs"] for name in ("one", "two")]
    for ours, theirs in zip(two, one, strict=True):
        for name in ("train_loss", "eval_loss", "eval_score"):
            assert ours[name] == pytest.approx(theirs[name], rel=1e-9), name
    best = [AutoModelForMaskedLM.from_pretrained(tmp_path / name / "best").state_dict() for name in ("one", "two")]
    for name, tensor in best[0].items():
        if "key.bias" not in name:  # whose gradient is rounding alone
            torch.testing.assert_close(best[1][name], tensor, rtol=1e-7, atol=1e-9)


def tokens(line: str) -> int:
    return len(line.split())


def test_best_is_a_stock_folder_with_tied_weights_and_the_encoder_s_pooler(trained, encoder_folder):
    model = AutoModelForMaskedLM.from_pretrained(trained / "best")
    embeddings = model.get_input_embeddings().weight
    assert model.get_output_embeddings().weight is embeddings
    saved = read_state_dict(trained / f"{results_of(trained)['best']['epoch']}_pytorch_model.bin")
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, saved[name]), name
    assert torch.equal(saved["cls.predictions.decoder.weight"], saved["bert.embeddings.word_embeddings.weight"])
    assert {name for name in saved if ".adversary." in name} == {
        f"bert.encoder.adversary.{layer}.{part}.{kind}"
        for layer in (0, 1)
        for part in ("query", "key")
        for kind in ("weight", "bias")
    }
    # The whole encoder, its pooler as it was: the heads of fine-tuning read it.
    before, after = (AutoModel.from_pretrained(folder) for folder in (encoder_folder, trained / "best"))
    assert torch.equal(after.pooler.dense.weight, before.pooler.dense.weight)
    assert not torch.equal(after.embeddings.word_embeddings.weight, before.embeddings.word_embeddings.weight)


def test_the_held_out_loss_and_perplexity_are_those_of_the_stock_model(trained, text, capsys, tmp_path, encoder_folder):
    """By hand, row by row, over the same masks; and once more from `best/` by the script."""
    best = trained / "best"
    tokenizer, model = AutoTokenizer.from_pretrained(best), AutoModelForMaskedLM.from_pretrained(best).eval()
    documents = text["dev"].read_text().splitlines()
    rows = MaskedRows(packed_features(documents, tokenizer, 24), Masking.of(tokenizer, 0.15, whole_words=False))
    losses, right = [], []
    for row in (rows[number] for number in range(len(rows))):
        with torch.no_grad():
            logits = model(torch.tensor([row["input_ids"]])).logits[0].double()
        for place, word in zip(row["words"], row["labels"], strict=True):
            losses.append(-logits[place].log_softmax(0)[word].item())
            right.append(logits[place].argmax().item() == word)
    epoch = results_of(trained)["best"]
    assert epoch["eval_loss"] == pytest.approx(sum(losses) / len(losses), rel=1e-5)
    assert epoch["metrics"]["perplexity"] == pytest.approx(math.exp(sum(losses) / len(losses)), rel=1e-5)
    assert epoch["metrics"]["accuracy"] == pytest.approx(100 * sum(right) / len(right))
    capsys.readouterr()
    again = tmp_path / "again"
    run(text, encoder_folder, again, "--test_model_file", str(best))
    assert json.loads((again / "evaluation.json").read_text())["metrics"] == pytest.approx(epoch["metrics"], rel=1e-5)
    assert capsys.readouterr().out == f"eval score = {epoch['eval_score']:.2f} | eval loss = {epoch['eval_loss']:.3f}\n"


def test_best_is_fine_tuned(trained, tmp_path, caplog):
    write(tmp_path / "train.csv", "sentence,label", "a warm film,good", "a dull plot,bad", "a fresh score,good")
    with caplog.at_level(logging.INFO, "asa"):
        given = ["--train_file", str(tmp_path / "train.csv"), "--load_model_path", str(trained / "best")]
        places = ["--output_dir", str(tmp_path / "out"), "--max_seq_length", "24"]
        run_sent_clas.main(["--do_train", *given, *places, "--max_train_steps", "1", "--no_cuda"])
    assert "new weights: classifier.bias, classifier.weight" in caplog.messages


def test_a_head_that_is_made_anew_is_tied_and_the_log_says_so(text, encoder_folder, trained, tmp_path, caplog):
    with caplog.at_level(logging.INFO, "asa"):
        run(text, encoder_folder, tmp_path / "a", "--method", "naive", "--max_train_steps", "1")
        run(text, trained / "best", tmp_path / "b", "--method", "naive", "--max_train_steps", "1")
    said = [line for line in caplog.messages if "head for masked words" in line]
    assert said == [
        f"--load_model_path {encoder_folder}: it has no whole head for masked words, so that one is made anew; its"
        " scores are those of the word embeddings (tied)",
        f"--load_model_path {trained / 'best'}: its head for masked words is kept",
    ]
    assert results_of(tmp_path / "b")["epochs"][0]["eval_loss"] < results_of(tmp_path / "a")["epochs"][0]["eval_loss"]


@pytest.mark.parametrize("method", [name for name, method in METHODS.items() if method.of_words])
def test_every_method_of_words_trains(method, text, encoder_folder, tmp_path):
    flags = ["--method", method, "--max_train_steps", "2", "--whole_word_mask", "--no_packing", "--fp16"]
    record = results_of(run(text, encoder_folder, tmp_path / "out", *flags))
    assert record["epochs"][0]["global_step"] == 2
    assert record["epochs"][0]["train_loss"] > 0


def test_the_best_epoch_has_the_lowest_loss():
    losses = (2.0, 1.5, 1.5, 1.7)
    epochs = [{"epoch": number, "eval_loss": loss, "eval_score": number} for number, loss in enumerate(losses)]
    progress = Progress(torch.tensor(0), torch.tensor([0, 0]), epochs=epochs, by_loss=True)
    assert progress.best is epochs[1]
    progress.by_loss = False
    assert progress.best is epochs[3]
    for broken in (math.nan, None):  # as it is, and as it is read from a file
        later = [{"epoch": 0, "eval_loss": broken, "eval_score": 0}, {"epoch": 1, "eval_loss": 2.0, "eval_score": 0}]
        assert Progress(torch.tensor(0), torch.tensor([0, 0]), epochs=later, by_loss=True).best is later[1]


def test_data_of_the_library_datasets(text, tmp_path):
    """A folder of Parquet files, by the names of their columns, or by --text_columns."""
    import pyarrow
    from pyarrow import parquet

    for name in ("train", "validation"):
        table = {"title": ["one", "two"], "text": ["a film", "a plot"], "label": [0, 1]}
        parquet.write_table(pyarrow.table(table), tmp_path / f"{name}.parquet")

    def task(*flags):
        return text_task(arguments.of_script("run_mlm", ["--dataset_name", str(tmp_path), *flags]))

    assert task().text == ("text",)
    assert task("--text_columns", "title,text").text == ("title", "text")
    assert task().train.files == ((str(tmp_path / "train.parquet"),),)
    assert message(task, "--text_columns", "body").startswith("--text_columns body: ")


def test_a_data_set_that_was_saved_to_disk(tmp_path):
    """Its splits are the Arrow files that it keeps; without one to evaluate on, the flag that is left out is named."""
    sets = {split: datasets.Dataset.from_dict({"text": [f"a {split} film"]}) for split in ("train", "validation")}
    for name, splits in (("both", ("train", "validation")), ("train", ("train",))):
        datasets.DatasetDict({split: sets[split] for split in splits}).save_to_disk(tmp_path / name)

    def task(name: str):
        return text_task(arguments.of_script("run_mlm", ["--dataset_name", str(tmp_path / name)]))

    found = task("both")
    assert found.text == ("text",)
    for split, data_set in (("train", found.train), ("validation", found.dev[found.name])):
        [[path]] = data_set.files
        assert read_documents(found, Path(path)) == [f"a {split} film"]
    assert message(task, "train") == (
        f"--dataset_name {tmp_path / 'train'}: it has no validation set: give --do_train alone, or files"
    )


def test_the_flags_of_rows_and_masks_do_something(text, encoder_folder, tmp_path, monkeypatch):
    seen: list[MaskedRows] = []
    monkeypatch.setattr("training.run.execute", lambda *given: seen.append(given[-1].train))
    for flags in ((), ("--mlm_probability", "0.5"), ("--no_packing",), ("--whole_word_mask",)):
        run(text, encoder_folder, tmp_path / "out", *flags)
    plain, many, apart, whole = seen
    masked = [sum(len(rows[row]["words"]) for row in range(len(rows))) for rows in (plain, many)]
    assert masked[1] > 2 * masked[0]
    assert len(apart) == 40 > len(plain)
    assert (plain.masking.whole_words, whole.masking.whole_words) == (False, True)
    assert ["starts" in rows.columns for rows in (plain, whole)] == [False, True]


@pytest.fixture
def on_the_hub(tmp_path, monkeypatch) -> list[str]:
    """A set `someone/films` of ten rows, read from a folder in place of the Hub; the names that were read."""
    rows = tmp_path / "hub" / "train.jsonl"
    rows.parent.mkdir()
    # The library takes the type of a column from its first thousand rows: `note` has none there.
    table = [{"note": None, "text": f"film {number}"} for number in range(9)]
    write(rows, *map(json.dumps, [*table, {"note": "the last", "text": None}]))
    read, load = [], datasets.load_dataset

    def load_from_folder(name, config=None, **options):
        read.append(name)
        if name != "someone/films":
            raise FileNotFoundError(f"Dataset '{name}' doesn't exist on the Hub")
        return load(str(rows.parent), config, **options)

    monkeypatch.setattr(datasets, "load_dataset", load_from_folder)
    return read


def streamed(tmp_path, *flags: str) -> argparse.Namespace:
    given = ["--dataset_name", "someone/films", "--cache_dir", str(tmp_path / "cache"), *flags]
    return arguments.of_script("run_mlm", given)


def streamed_texts(args: argparse.Namespace) -> dict[str, list[str]]:
    task = text_task(args)
    sets = {"train": task.train, "dev": task.dev.get(task.name)}
    files = {split: data_set.files for split, data_set in sets.items() if data_set}
    return {split: read_documents(task, Path(path)) for split, [[path]] in files.items()}


def test_the_first_rows_of_a_streamed_set(on_the_hub, tmp_path):
    """Without a validation set the first rows are held out, with training or without; what was fetched is kept."""
    both = streamed(tmp_path, "--stream_train_rows", "7", "--stream_dev_rows", "3")
    films = [f"film {number}" for number in range(9)]
    for again in (False, True):
        assert streamed_texts(both) == {"train": films[3:], "dev": films[:3]}  # the last row has no text
        assert on_the_hub == ["someone/films"] * 2, again
    alone = streamed(tmp_path, "--test_model_file", str(tmp_path), "--stream_train_rows", "7", "--stream_dev_rows", "3")
    assert (alone.do_train, alone.do_eval) == (False, True)
    assert streamed_texts(alone) == {"dev": films[:3]}


def test_the_first_rows_of_a_validation_set(on_the_hub, tmp_path):
    """Training begins with the first row then."""
    write(tmp_path / "hub" / "validation.jsonl", json.dumps({"note": "held out", "text": "a plot"}))
    args = streamed(tmp_path, "--stream_train_rows", "2", "--stream_dev_rows", "1")
    assert streamed_texts(args) == {"train": ["film 0", "film 1"], "dev": ["a plot"]}


def test_streamed_rows_are_for_what_is_to_be_done(tmp_path):
    args = streamed(tmp_path, "--stream_train_rows", "4")
    assert (args.do_train, args.do_eval) == (True, False)
    assert message(streamed, tmp_path, "--do_train", "--do_eval", "--stream_train_rows", "4") == (
        "--do_eval needs --stream_dev_rows, how many rows to fetch"
    )
    assert message(arguments.of_script, "run_mlm", ["--dataset_name", str(tmp_path), "--stream_dev_rows", "4"]) == (
        "--stream_dev_rows is of a data set on the Hub: give its name as --dataset_name"
    )


def test_a_streamed_set_that_cannot_be_had(on_the_hub, tmp_path):
    """Too short a set is not taken for the whole the next time; a missing one, or a missing column, names the flag."""
    args = streamed(tmp_path, "--stream_train_rows", "8", "--stream_dev_rows", "3")
    for _ in range(2):
        assert message(text_task, args) == (
            "--stream_train_rows 8: someone/films has only 7 rows in its train set after the first 3"
        )
    args.text_columns = "body"
    assert message(text_task, args) == (
        "--text_columns body: someone/films has no column 'body'; it has 'note', 'text'"
    )
    args.dataset_name = "someone/plays"
    assert message(text_task, args) == (
        "--dataset_name someone/plays: the library datasets cannot read it (Dataset 'someone/plays' doesn't exist on"
        " the Hub)"
    )


TEXT = ["--train_file", "a.txt"]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ([], "--train_file is missing: give the text to train on, or --dataset_name"),
        (["--do_train", "--dev_file", "a.txt"], "--do_train needs --train_file, the text to train on"),
        ([*TEXT, "--do_eval", "--do_train"], "--do_eval needs --dev_file, the text that is held out"),
        ([*TEXT, "--do_test"], "--do_test: plain text has no labels to predict or to choose by: leave the flag out"),
        ([*TEXT, "--dataset_name", "x"], "--dataset_name and files exclude each other: give one of them"),
        (["--dev_file", "a.txt"], "--do_eval without --do_train needs --test_model_file, the checkpoint to use"),
        ([*TEXT, "--method", "smart"], "--method smart is not for masked language modelling: use naive, asa"),
    ],
)
def test_arguments_that_contradict_each_other(flags, said):
    with pytest.raises(InputError) as error:
        arguments.of_script("run_mlm", flags)
    assert str(error.value).startswith(said)


def test_files_that_cannot_be_used(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "a.pdf", "text")
    write(tmp_path / "b.txt", "text")

    def said(*flags) -> str:
        return message(run_mlm.main, ["--output_dir", str(tmp_path / "out"), *flags])

    assert said("--train_file", "no.txt") == "--train_file no.txt: no such file"
    assert said("--train_file", "a.pdf").startswith("--train_file a.pdf: its name must end in one of .txt, .csv, .tsv")
    assert said("--train_file", "b.txt", "--text_columns", "x") == (
        "--text_columns x: b.txt has no columns: leave the flag out"
    )
    assert not (tmp_path / "out").exists()


def test_an_encoder_without_room_for_the_mask_token_is_refused(text, tmp_path):
    save_tiny_encoder(tmp_path / "encoder")
    settings = json.loads((tmp_path / "encoder" / "tokenizer_config.json").read_text())
    settings["mask_token"] = None
    (tmp_path / "encoder" / "tokenizer_config.json").write_text(json.dumps(settings))
    said = message(run, text, tmp_path / "encoder", tmp_path / "out")
    assert said == "--load_model_path: its tokenizer has no mask token, which this training needs"


@pytest.mark.parametrize("nothing", ["\u00a4 \u00a7", "\u200b"])  # unknown words alone, and no token
@pytest.mark.parametrize("split", ["train", "dev"])
def test_text_without_a_word_to_mask_is_refused(nothing, split, text, encoder_folder, tmp_path):
    texts = text | {split: write(tmp_path / "nothing.txt", nothing)}
    assert message(run, texts, encoder_folder, tmp_path / "out") == (
        f"{tmp_path / 'nothing.txt'}: no word to mask for this tokenizer: give more text"
    )
    assert not (tmp_path / "out").exists()
