"""The model that is scored is scored as itself: its own tokenizer, limits, classes and kind of problem."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from conftest import HEADS, save_tiny_encoder
from model_folders import ROWS, edit, load_stock, model_folder, small_sst2
from script_runs import message, run_folder
from test_data import write
from torch.nn import functional as F
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

import run_multi_cho
import run_sent_clas
import run_tok_clas
from data import cache
from data.classes import class_order, match_classes, saved_labels
from data.tasks import CHOICE_TASKS, NLI, SENTENCE_TASKS, TOKEN_TASKS
from models.encoders import load_config
from models.heads import reorder_classes
from models.tokenizer import fit_together, load_tokenizer

TASKS = SENTENCE_TASKS | CHOICE_TASKS | TOKEN_TASKS


@pytest.fixture
def data_dir(tmp_path) -> Path:
    return small_sst2(tmp_path)


@pytest.fixture
def evaluate(encoder_folder, tmp_path, data_dir):
    """evaluate(task, folder, flags) -> what evaluation.json holds."""
    count = iter(range(99))

    def run(task, checkpoint, *flags, main=run_sent_clas.main, encoder=encoder_folder) -> dict:
        flags = ("--do_eval", "--test_model_file", str(checkpoint), "--no_token_cache", *flags)
        out = run_folder(main, data_dir, str(encoder), tmp_path / f"scores{next(count)}", task, *flags)
        return json.loads((out / "evaluation.json").read_text())

    return run


def cased(path: Path) -> None:
    """Make a folder's tokenizer keep the case."""
    edit(path / "tokenizer_config.json", lambda settings: settings.update(do_lower_case=False))
    edit(path / "tokenizer.json", lambda settings: settings["normalizer"].update(lowercase=False))


def stock_logits(model, folder, texts=tuple(text for text, _ in ROWS), pairs=None) -> torch.Tensor:
    """What transformers alone computes, text by text."""
    model, tokenizer = model.eval(), AutoTokenizer.from_pretrained(folder)
    pairs = pairs or [(text,) for text in texts]
    with torch.no_grad():
        return torch.stack([model(**tokenizer(*pair, return_tensors="pt")).logits[0] for pair in pairs])


def stock_loss(folder, rows=ROWS, order=(0, 1)) -> float:
    logits = stock_logits(AutoModelForSequenceClassification.from_pretrained(folder), folder)[:, list(order)]
    return F.cross_entropy(logits, torch.tensor([label for _, label in rows])).item()


# --- tokenizer and limits ---


def test_a_folder_is_scored_with_its_own_tokenizer(evaluate, encoder_folder, tmp_path):
    model_folder(tmp_path / "cased", encoder_folder)
    cased(tmp_path / "cased")
    model_folder(tmp_path / "lower", encoder_folder)
    losses = {name: stock_loss(tmp_path / name) for name in ("cased", "lower")}
    assert abs(losses["cased"] - losses["lower"]) > 1e-3
    for name, loss in losses.items():
        record = evaluate("SST-2", tmp_path / name)
        assert record["eval_loss"] == pytest.approx(loss, rel=1e-5)
        assert record["classes"] == {"matched": "assumed in the task's order", "names": None}


def test_the_cache_knows_whose_tokenizer_it_was(evaluate, encoder_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "CACHED_FROM", 0)
    for name in ("lower", "cased"):
        model_folder(tmp_path / name, encoder_folder)
    cased(tmp_path / "cased")
    kept = ("--token_cache_dir", str(tmp_path / "cache"))
    for name in ("lower", "cased", "lower"):
        assert evaluate("SST-2", tmp_path / name, *kept)["eval_loss"] == pytest.approx(stock_loss(tmp_path / name))
    assert len(list((tmp_path / "cache").glob("*/about.json"))) == 2


def test_the_type_may_differ_and_the_encoder_need_not_be_there(evaluate, encoder_folder, tmp_path):
    folder = model_folder(tmp_path / "roberta", encoder_folder, "roberta")
    expected = pytest.approx(stock_loss_without_segments(folder), rel=1e-5)
    assert evaluate("SST-2", folder)["eval_loss"] == expected
    assert evaluate("SST-2", folder, encoder=tmp_path / "nowhere")["eval_loss"] == expected
    assert evaluate("SST-2", folder, "--model_type", "roberta", "--do_test")["eval_loss"] == expected


def stock_loss_without_segments(folder) -> float:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    tokenizer.save_pretrained(folder / "plain")
    edit(
        folder / "plain" / "tokenizer_config.json",
        lambda c: c.update(model_input_names=["input_ids", "attention_mask"]),
    )
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    return F.cross_entropy(stock_logits(model, folder / "plain"), torch.tensor([label for _, label in ROWS])).item()


def test_a_folder_without_a_tokenizer_takes_that_of_the_encoder(evaluate, encoder_folder, tmp_path, caplog):
    caplog.set_level("INFO", "asa")
    folder = model_folder(tmp_path / "model", encoder_folder)
    expected = stock_loss(folder)
    for file in folder.glob("tokenizer*"):
        file.unlink()
    assert evaluate("SST-2", folder)["eval_loss"] == pytest.approx(expected, rel=1e-5)
    assert f"--test_model_file {folder}: it has no tokenizer: that of --load_model_path {encoder_folder}" in caplog.text


def test_the_limits_are_those_of_the_folder(evaluate, encoder_folder, tmp_path):
    few = model_folder(tmp_path / "few", encoder_folder, max_position_embeddings=20)
    said = message(evaluate, "SST-2", few, "--max_seq_length", "21")
    assert said == "--max_seq_length 21: this encoder takes 3 to 20 tokens"
    assert evaluate("SST-2", few, "--max_seq_length", "20")["eval_loss"] == pytest.approx(stock_loss(few), rel=1e-5)
    small = model_folder(tmp_path / "small", encoder_folder)
    edit(small / "config.json", lambda config: config.update(vocab_size=50))
    assert message(evaluate, "SST-2", small) == (
        f"--test_model_file {small}: its tokenizer has 129 tokens, its encoder 50"
    )
    for file in small.glob("tokenizer*"):
        file.unlink()
    assert message(evaluate, "SST-2", small) == (
        f"--load_model_path {encoder_folder}: its tokenizer has 129 tokens, the encoder of --test_model_file {small} 50"
    )


def test_a_damaged_tokenizer_of_the_folder_is_named(evaluate, encoder_folder, tmp_path):
    folder = model_folder(tmp_path / "model", encoder_folder)
    (folder / "tokenizer.json").write_text("{}")
    assert message(evaluate, "SST-2", folder).startswith(f"--test_model_file {folder}: its tokenizer cannot be loaded")


def test_a_run_s_folder_is_its_best_epoch(evaluate, encoder_folder, data_dir, tmp_path):
    flags = ("--do_train", "--do_eval", "--method", "naive", "--no_token_cache")
    run = run_folder(run_sent_clas.main, data_dir, encoder_folder, tmp_path / "run", "SST-2", *flags)
    record = evaluate("SST-2", run, encoder=tmp_path / "nowhere")
    best = json.loads((run / "results.json").read_text())["best"]
    assert record["eval_loss"] == pytest.approx(best["eval_loss"], rel=1e-5)
    assert record["args"]["test_model_file"] == str(run / "best")
    assert record["classes"] == {"matched": "by name", "names": ["0", "1"]}
    (run / "best").rename(tmp_path / "best")
    said = message(evaluate, "SST-2", run)
    assert said.startswith(f"--test_model_file {run}: the folder of a run without best/, the model of its best epoch")


def test_the_default_length_gives_way_to_the_positions_that_there_are(tmp_path, monkeypatch, caplog):
    """A length that was typed does not."""
    write(tmp_path / "data" / "SST-2" / "dev.tsv", "sentence\tlabel", "a warm film with music and a vivid story\t1")
    save_tiny_encoder(tmp_path / "enc", max_position_embeddings=7)
    config = AutoConfig.from_pretrained(tmp_path / "enc", num_labels=2)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path / "enc")
    places = ["--data_dir", tmp_path / "data", "--load_model_path", tmp_path / "enc", "--output_dir", tmp_path / "out"]
    argv = ["--do_eval", "--task_name", "SST-2", "--test_model_file", tmp_path / "enc", "--no_cuda", *places]
    argv = list(map(str, argv))
    caplog.set_level("INFO", "asa")
    run_sent_clas.main(argv)
    record = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert (record["args"]["max_seq_length"], record["unseen"]["eval"]["truncated_share"]) == (7, 1.0)
    assert "it has positions for 7 tokens: longer rows are cut there" in caplog.text
    said = message(run_sent_clas.main, [*argv, "--max_seq_length", "128", "--overwrite_output_dir"])
    assert said == "--max_seq_length 128: this encoder takes 3 to 7 tokens"


# --- classes ---


def test_names_of_classes_that_stand_in_label2id_alone(evaluate, encoder_folder, tmp_path):
    """The library forgets them."""
    folder = model_folder(tmp_path / "model", encoder_folder, names=["positive", "negative"])
    expected = stock_loss(folder, order=(1, 0))
    edit(folder / "config.json", lambda config: config.pop("id2label"))
    record = evaluate("SST-2", folder)
    assert record["classes"] == {"matched": "by name", "names": ["positive", "negative"]}
    assert record["eval_loss"] == pytest.approx(expected, rel=1e-5)
    assert saved_labels(folder) == ("positive", "negative")


CONLL_OF_DATASETS = "O B-PER I-PER B-ORG I-ORG B-LOC I-LOC B-MISC I-MISC".split()
WNUT_OF_DATASETS = ["O"] + [
    f"{tag}-{kind}"
    for kind in ("corporation", "creative-work", "group", "location", "person", "product")
    for tag in "BI"
]
NAMES = [
    ("SST-2", ["negative", "positive"], [0, 1]),
    ("SST-2", ["POSITIVE", "Negative"], [1, 0]),
    ("SST-2", ["1", "0"], [1, 0]),
    ("SST-2", [1, 0], [1, 0]),
    ("SST-2", ["pos", "neg"], [1, 0]),
    ("CoLA", ["unacceptable", "acceptable"], [0, 1]),
    ("CoLA", ["acceptable", "unacceptable"], [1, 0]),
    ("MRPC", ["equivalent", "not_equivalent"], [1, 0]),
    ("QQP", ["not_duplicate", "duplicate"], [0, 1]),
    ("PAWS-QQP", ["duplicate", "not duplicate"], [1, 0]),
    ("QNLI", ["entailment", "not_entailment"], [0, 1]),
    ("RTE", ["not_entailment", "entailment"], [1, 0]),
    ("RTE", ["0", "1"], [0, 1]),
    ("WNLI", ["not_entailment", "entailment"], [0, 1]),
    ("MNLI", ["entailment", "neutral", "contradiction"], [2, 0, 1]),
    ("MNLI", ["CONTRADICTION", "NEUTRAL", "ENTAILMENT"], [0, 2, 1]),
    ("ANLI", ["e", "n", "c"], [2, 0, 1]),
    ("CoNLL-2003", CONLL_OF_DATASETS, [0, 7, 8, 1, 2, 3, 4, 5, 6]),
    ("WNUT-2017", WNUT_OF_DATASETS, [0, 1, 3, 5, 7, 9, 11, 2, 4, 6, 8, 10, 12]),
    ("STS-B", ["LABEL_0"], [0]),
    ("STS-B", ["similarity"], [0]),
    ("DREAM", ["LABEL_0", "LABEL_1"], [0]),
    ("DREAM", ["a", "b", "c"], [0]),
    ("HANS", ["neutral", "entailment", "contradiction"], [0, 1, 2]),
]
NO_NAMES = [("SST-2", 2), ("MNLI", 3), ("CoNLL-2003", 9), ("HANS", 3)]
OTHER_NAMES = [
    ("SST-2", ["bad", "good"], "its classes are bad, good, the task's 0, 1: give a model of the task's classes"),
    ("SST-2", ["negative", "negative"], "its classes are negative, negative, the task's 0, 1: "),
    ("SST-2", ["LABEL_0", "positive"], "its classes are LABEL_0, positive, the task's 0, 1: "),
    ("SST-2", ["not_equivalent", "equivalent"], "its classes are not_equivalent, equivalent, the task's 0, 1: "),
    ("SST-2", ["negative", "neutral", "positive"], "it has 3 labels, the task 2"),
    ("MNLI", ["0", "1", "2"], "its classes are 0, 1, 2, the task's contradiction, entailment, neutral: "),
    ("MNLI", ["LABEL_0", "LABEL_1"], "it has 2 labels, the task 3"),
    ("STS-B", ["LABEL_0", "LABEL_1"], "it has 2 labels, the task 1"),
]


@pytest.mark.parametrize(("task", "words", "order"), NAMES)
def test_classes_are_matched_by_name(task, words, order):
    assert class_order(TASKS[task], words) == order
    assert match_classes(TASKS[task], words, "it") == order


@pytest.mark.parametrize(("task", "count"), NO_NAMES)
def test_classes_without_names_are_not_matched(task, count):
    words = [f"LABEL_{index}" for index in range(count)]
    assert match_classes(TASKS[task], words, "it") is None


@pytest.mark.parametrize(("task", "words", "expected"), OTHER_NAMES)
def test_other_classes_are_refused(task, words, expected):
    assert class_order(TASKS[task], words) is None
    assert message(match_classes, TASKS[task], words, "it").startswith(f"it: {expected}")


def test_labels_that_differ_by_case_alone():
    task = TASKS["CoNLL-2003"].__class__(
        **{**vars(TASKS["CoNLL-2003"]), "labels": ("O", "b-per", "B-PER"), "recipe": None}
    )
    assert class_order(task, ["B-PER", "O", "b-per"]) == [1, 2, 0]
    assert class_order(task, ["B-PER", "o", "b-per"]) is None


@pytest.mark.parametrize("model_type", ["bert", "roberta"])
def test_a_folder_with_its_classes_in_another_order(model_type, evaluate, encoder_folder, tmp_path, caplog):
    """The logits, and with them the loss, stand in the task's order; the names count, not where they stand."""
    caplog.set_level("INFO", "asa")
    names = ["positive", "negative"]
    folder = model_folder(tmp_path / "model", encoder_folder, model_type, names=names, type_vocab_size=2)
    expected = stock_loss(folder, order=(1, 0))
    assert abs(expected - stock_loss(folder)) > 1e-3
    record = evaluate("SST-2", folder, "--do_test")
    assert record["eval_loss"] == pytest.approx(expected, rel=1e-5)
    assert record["classes"] == {"matched": "by name", "names": names}
    answers = ["01"[row.argmax()] for row in stock_logits(load_stock(folder), folder)[:, [1, 0]]]
    (table,) = tmp_path.glob("scores*/SST-2.tsv")
    assert [line.split("\t")[1] for line in table.read_text().splitlines()] == ["prediction", *answers]
    assert f"{folder}: classes by name (positive, negative)" in caplog.text


def test_a_file_says_that_its_classes_are_assumed(evaluate, encoder_folder, tmp_path, caplog):
    caplog.set_level("INFO", "asa")
    folder = model_folder(tmp_path / "model", encoder_folder, max_position_embeddings=64, num_hidden_layers=2)
    record = evaluate("SST-2", folder / "model.safetensors")
    assert record["classes"] == {"matched": "assumed in the task's order", "names": None}
    assert record["eval_loss"] == pytest.approx(stock_loss(folder), rel=1e-5)
    assert "model.safetensors: classes assumed in the task's order (0, 1)" in caplog.text


def test_tags_in_the_order_of_datasets(evaluate, encoder_folder, data_dir, tmp_path):
    """A model of the same weights scores the same whichever way its tags are numbered."""
    rows = ["the\tO", "film\tB-product", "", "Music\tB-person", "plot\tI-person"]
    write(data_dir / "WNUT17" / "dev.txt", *rows, "")
    losses, scores = [], []
    for number, names in enumerate((TASKS["WNUT-2017"].labels, WNUT_OF_DATASETS)):
        folder = model_folder(tmp_path / str(number), encoder_folder, head="token", names=names)
        if number:
            model = HEADS["token"].from_pretrained(folder)
            reorder_classes(model, [TASKS["WNUT-2017"].labels.index(name) for name in names])
            model.save_pretrained(folder)
        record = evaluate("WNUT-2017", folder, main=run_tok_clas.main)
        assert record["classes"] == {"matched": "by name", "names": list(names)}
        losses.append(record["eval_loss"])
        scores.append(record["metrics"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert scores[0] == scores[1]


def test_hans_says_how_the_classes_were_taken(evaluate, encoder_folder, data_dir, tmp_path, caplog):
    write(data_dir / "HANS" / "dev.tsv", "gold_label\tsentence1\tsentence2", "entailment\ta film\ta plot")
    named = model_folder(tmp_path / "named", encoder_folder, names=["Neutral", "ENTAILMENT", "contradiction"])
    record = evaluate("HANS", named)
    assert record["classes"] == {"matched": "by name", "names": ["Neutral", "ENTAILMENT", "contradiction"]}
    entails = stock_logits(load_stock(named), named, pairs=[("a film", "a plot")])[0].argmax() == 1
    assert record["metrics"]["accuracy"] == 100.0 * bool(entails)
    caplog.set_level("INFO", "asa")
    plain = model_folder(tmp_path / "plain", encoder_folder, num_labels=3)
    assert evaluate("HANS", plain)["classes"] == {"matched": "assumed in the task's order", "names": None}
    assert f"{plain}: classes assumed in the task's order (contradiction, entailment, neutral)" in caplog.text


# --- multiple choice ---


@pytest.fixture
def dream(data_dir) -> Path:
    question = {"question": "it is?", "choice": ["warm", "dull", "a plot"], "answer": "dull"}
    rows = [[["M: a film.", "W: the plot."], [question], f"3-{row}"] for row in range(4)]
    for name in ("train", "dev", "test"):
        write(data_dir / "DREAM" / f"{name}.json", json.dumps(rows))
    return data_dir


@pytest.mark.parametrize(
    "about",
    [
        {"names": NLI},
        {"num_labels": 1},
        {"names": NLI, "problem_type": "multi_label_classification"},
        {"num_labels": 5, "problem_type": "regression"},
    ],
)
@pytest.mark.parametrize("method", ["asa", "naive"])
def test_a_choice_has_no_classes(method, about, dream, evaluate, encoder_folder, tmp_path, caplog):
    """Whatever the encoder's folder was trained for."""
    caplog.set_level("INFO", "asa")
    encoder = model_folder(tmp_path / "encoder", encoder_folder, **about)
    flags = ("--do_train", "--do_eval", "--no_token_cache", "--method", method)
    run = run_folder(run_multi_cho.main, dream, str(encoder), tmp_path / "run", "DREAM", *flags)
    assert "its head is not known to be one for this task" in caplog.text
    config = json.loads((run / "best" / "config.json").read_text())
    assert not config.keys() & {"id2label", "label2id", "num_labels"}
    assert config.get("problem_type") is None
    best = json.loads((run / "results.json").read_text())["best"]
    other = model_folder(tmp_path / "other", encoder_folder, num_labels=7)
    for checkpoint, of in ((run / "best", other), (run / "0_pytorch_model.bin", encoder)):
        record = evaluate("DREAM", checkpoint, main=run_multi_cho.main, encoder=of)
        assert record["eval_loss"] == pytest.approx(best["eval_loss"], rel=1e-5)
        assert record["metrics"] == best["metrics"]
        assert "classes" not in record
    again = run_folder(run_multi_cho.main, dream, str(run / "best"), tmp_path / "again", "DREAM", *flags)
    assert "its head is kept" in caplog.text
    assert again.is_dir()


# --- the kind of problem ---


@pytest.mark.parametrize("problem_type", ["multi_label_classification", "regression", None])
def test_the_task_says_what_the_problem_is(problem_type, evaluate, encoder_folder, data_dir, tmp_path):
    columns = "sentence1\tsentence2\tgold_label"
    pairs = [("a film", "a plot"), ("a warm film", "it is good")]
    rows = [f"{a}\t{b}\t{word}" for (a, b), word in zip(pairs, ("neutral", "entailment"), strict=True)]
    for name in ("train", "dev_matched"):
        write(data_dir / "MNLI" / f"{name}.tsv", columns, *rows)
    folder = model_folder(tmp_path / "model", encoder_folder, names=NLI, problem_type=problem_type)
    logits = stock_logits(load_stock(folder), folder, pairs=pairs)
    expected = F.cross_entropy(logits, torch.tensor([2, 1])).item()
    assert evaluate("MNLI", folder)["eval_loss"] == pytest.approx(expected, rel=1e-5)
    flags = ("--do_train", "--no_token_cache")
    run = run_folder(run_sent_clas.main, data_dir, str(folder), tmp_path / "run", "MNLI", *flags)
    assert json.loads((run / "best" / "config.json").read_text())["problem_type"] == "single_label_classification"


# --- segments and sides ---


@pytest.mark.parametrize("model_type", ["roberta", "xlm-roberta", "distilbert", "mpnet", "bert"])
def test_an_encoder_of_one_segment(model_type, evaluate, encoder_folder, data_dir, tmp_path):
    """It gets no segment ids from a tokenizer that makes them, and neither does who loads what is saved."""
    texts = [("a film", "a plot"), ("a warm film", "it is good")]
    rows = [f"{number}\t1\t2\t{a}\t{b}" for number, (a, b) in enumerate(texts)]
    for name in ("train", "dev"):
        write(data_dir / "MRPC" / f"{name}.tsv", "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String", *rows)
    special = {"type_vocab_size": 1} if "bert" in model_type and model_type != "distilbert" else {}
    encoder = model_folder(tmp_path / "encoder", encoder_folder, model_type, **special)
    assert "token_type_ids" in AutoTokenizer.from_pretrained(encoder)("a", "b")
    flags = ("--do_train", "--do_eval", "--no_token_cache")
    run = run_folder(run_sent_clas.main, data_dir, str(encoder), tmp_path / "run", "MRPC", *flags)
    best = json.loads((run / "results.json").read_text())["best"]
    loss = F.cross_entropy(stock_logits(load_stock(run / "best"), run / "best", pairs=texts), torch.tensor([0, 1]))
    assert best["eval_loss"] == pytest.approx(loss.item(), rel=1e-5)
    assert evaluate("MRPC", encoder)["eval_loss"] > 0  # and likewise scored


def test_two_segments_stay_two(encoder_folder):
    tokenizer = load_tokenizer(encoder_folder, None, False, False)
    fit_together(encoder_folder, load_config(encoder_folder, None, None), tokenizer)
    assert tokenizer("a", "b")["token_type_ids"] == [0, 0, 0, 1, 1]


@pytest.mark.parametrize(("told", "segments"), [(None, True), (["input_ids", "attention_mask"], False)])
def test_segments_of_a_tokenizer_that_numbers_them_only_if_told(told, segments, encoder_folder, tmp_path):
    """As ALBERT's, and generic ones, in transformers 5; unless its files say what it makes."""
    shutil.copytree(encoder_folder, tmp_path, dirs_exist_ok=True)
    more = {"tokenizer_class": "PreTrainedTokenizerFast"} | ({"model_input_names": told} if told else {})
    edit(tmp_path / "tokenizer_config.json", lambda settings: settings.update(more))
    tokenizer = load_tokenizer(str(tmp_path), None, False, False)
    assert "token_type_ids" not in tokenizer("a", "b")
    fit_together(str(tmp_path), load_config(str(tmp_path), None, None), tokenizer)
    assert tokenizer("a", "b").get("token_type_ids") == ([0, 0, 0, 1, 1] if segments else None)
    tokenizer.save_pretrained(tmp_path / "saved")
    assert ("token_type_ids" in AutoTokenizer.from_pretrained(tmp_path / "saved")("a", "b")) == segments


def sided(folder: Path, side: str) -> None:
    edit(folder / "tokenizer_config.json", lambda settings: settings.update(padding_side=side, truncation_side=side))


def test_padding_and_cutting_are_on_the_right(evaluate, encoder_folder, data_dir, tmp_path):
    """Positions are counted from the left: padded there, a row would be another one."""
    models = {side: model_folder(tmp_path / side, encoder_folder) for side in ("left", "right")}
    for side, folder in models.items():
        sided(folder, side)
    whole = stock_loss(models["right"])
    for flags, expected in (((), whole), (("--max_seq_length", "5"), None)):
        losses = {side: evaluate("SST-2", folder, *flags)["eval_loss"] for side, folder in models.items()}
        assert losses["left"] == losses["right"] == pytest.approx(expected or losses["left"], rel=1e-5)
    assert losses["left"] != pytest.approx(whole)
    flags = ("--do_train", "--do_eval", "--no_token_cache")
    of = {
        side: run_folder(run_sent_clas.main, data_dir, str(folder), tmp_path / f"run-{side}", "SST-2", *flags)
        for side, folder in models.items()
    }
    best = {side: json.loads((run / "results.json").read_text())["best"]["eval_loss"] for side, run in of.items()}
    assert best["left"] == best["right"]
    assert AutoTokenizer.from_pretrained(of["left"] / "best").padding_side == "right"  # as it was trained
