"""Token classification: readers, alignment, scores over words, predictions, exact accumulation, and the script."""

from argparse import Namespace
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from conftest import tiny_backbone, tiny_batch
from script_runs import (
    REAL_DATA,
    check_saved_checkpoint,
    message,
    needs_real_data,
    results_of,
    run_folder,
)
from sklearn.metrics import f1_score
from tokenizers import Tokenizer, pre_tokenizers, trainers
from tokenizers.models import BPE
from transformers import AutoTokenizer, DataCollatorForTokenClassification, PreTrainedTokenizerFast, RobertaTokenizer

from data.conll import as_bio, read_tagged
from data.examples import WordsExample
from data.features import word_features
from data.metrics import NO_TAG, compute_words, outside_where_unseen
from data.readers import read_file, read_splits, with_labels
from data.submission import write_words
from data.tasks import TOKEN_TASKS, find_task
from models import methods
from models.asa import AsaModel
from run_tok_clas import main, warn_of_the_sum
from training import accumulation
from training.evaluation import Head, predict
from training.loop import optimize

CONLL, PTB, WNUT = (TOKEN_TASKS[name] for name in ("CoNLL-2003", "PTB", "WNUT-2017"))
ACCENT = "\u0301"  # a lone accent: the uncased tokenizer makes nothing of it

# As the official file writes it: an empty line is a tab at times, and words may be odd.
WNUT_FILE = f"""the\tO\ncharming\tB-creative-work\nthriller\tI-creative-work\n\t
{ACCENT}\tO\nwarm\xa0day\tO\nice cream\tB-product\n\u200b\tO\n\n\nmusic\tB-group"""
WNUT_WORDS = [["the", "charming", "thriller"], [ACCENT, "warm\xa0day", "ice cream", "\u200b"], ["music"]]

CONLL_FILE = """-DOCSTART- -X- O O

the DT I-NP I-ORG
film NN I-NP I-ORG
music NN B-NP B-ORG
is VBZ I-VP O

vivid JJ I-NP I-PER
-DOCSTART- -X- O O
dull  JJ I-NP   I-MISC
"""
PTB_FILE = """1\tthe\tthe\tDT\tDT\t_\t2\tdet\t_\t_\n2\tplot\tplot\tNN\tNN\t_\t3\tnsubj\t_\t_
3\tends\tend\tVB\tVBZ\t_\t0\troot\t_\t_\n\n1\tslow\tslow\tJJ\tJJ\t_\t0\troot\t_\t_\n"""


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sets")
    files = {
        "WNUT17": (["wnut17train.conll", "emerging.dev.conll", "emerging.test.annotated"], WNUT_FILE),
        "conll2003": (["eng.train", "valid.txt", "eng.testb"], CONLL_FILE),
        "ptb": (["train.txt", "dev.txt", "test.txt"], PTB_FILE),
    }
    for name, (names, text) in files.items():
        (folder / name).mkdir()
        for file in names:
            (folder / name / file).write_text(text, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def tokenizer(encoder_folder):
    return AutoTokenizer.from_pretrained(encoder_folder)


# --- readers ---


def test_wnut_is_read_completely(data_dir):
    examples = read_file(WNUT, data_dir / "WNUT17" / "wnut17train.conll", True)
    assert [example.words for example in examples] == WNUT_WORDS
    tags = [[WNUT.labels[label] for label in example.labels] for example in examples]
    assert tags == [["O", "B-creative-work", "I-creative-work"], ["O", "O", "B-product", "O"], ["B-group"]]


@needs_real_data
def test_wnut_has_the_published_counts(tmp_path):
    args = Namespace(data_dir=REAL_DATA, do_train=True, do_eval=True, do_test=False, eval_on="dev", eval_file=None)
    splits = [read_splits(WNUT, args).train, *read_splits(WNUT, args).eval.values()]
    args.eval_on = "test"
    splits += read_splits(WNUT, args).eval.values()
    assert [len(examples) for examples in splits] == [3394, 1009, 1287]
    assert [sum(len(example.words) for example in examples) for examples in splits] == [62730, 15733, 23394]
    for examples in splits:
        write_words(tmp_path / "x.tsv", examples, [[WNUT.labels[label] for label in row.labels] for row in examples])
        assert read_file(WNUT, tmp_path / "x.tsv", True) == list(examples)


def test_iob1_becomes_bio(data_dir, caplog):
    caplog.set_level("INFO", "asa")
    examples = read_file(CONLL, data_dir / "conll2003" / "eng.train", True)
    tags = [[CONLL.labels[label] for label in example.labels] for example in examples]
    assert tags == [["B-ORG", "I-ORG", "B-ORG", "O"], ["B-PER"], ["B-MISC"]]
    assert "3 sentences in IOB1" in caplog.text


@pytest.mark.parametrize(
    ("tags", "bio"),
    [
        ("I-A I-A O I-A", "B-A I-A O B-A"),
        ("I-A B-A I-A", "B-A B-A I-A"),
        ("I-A I-B I-B", "B-A B-B I-B"),
        ("B-A I-A B-A O O B-B I-B", "B-A I-A B-A O O B-B I-B"),
    ],
)
def test_bio_is_its_own_image(tags, bio):
    assert as_bio(tags.split()) == bio.split()
    assert as_bio(as_bio(tags.split())) == bio.split()


def test_ptb_takes_its_tags_from_the_training_file(data_dir, tmp_path):
    task = with_labels(PTB, str(data_dir))
    assert task.labels == ("DT", "JJ", "NN", "VB")
    examples = read_file(task, data_dir / "ptb" / "dev.txt", True)
    assert examples == [WordsExample(["the", "plot", "ends"], [0, 2, 3]), WordsExample(["slow"], [1])]
    assert with_labels(WNUT, "nowhere") is WNUT
    (tmp_path / "PTB").mkdir()
    assert "train.txt: no such file" in message(with_labels, PTB, str(tmp_path))
    assert with_labels(PTB, "nowhere", ("NN", "DT")).labels == ("NN", "DT")  # those of a model that names its classes
    assert with_labels(PTB, str(data_dir), ("LABEL_0", "LABEL_1")).labels == task.labels


@pytest.mark.parametrize("name", ["WNUT17", "wnut-17", "Wnut2017", "wnut-2017"])
def test_tasks_have_other_names(name):
    assert find_task(name, TOKEN_TASKS) is WNUT


def test_a_test_file_needs_no_tags(tmp_path):
    path = tmp_path / "test.txt"
    path.write_text("film\nweak\n\nmusic\n")
    assert read_file(WNUT, path, False) == [WordsExample(["film", "weak"], None), WordsExample(["music"], None)]


# --- alignment ---


def report(truncated: float, words: int, beyond: int, without: int) -> dict:
    figures = {"words": words, "words_beyond_limit": beyond, "words_without_tokens": without}
    return {"truncated_share": truncated} | figures


def test_a_label_stands_on_the_first_token_of_its_word(tokenizer):
    example = WordsExample(["films", ACCENT, "are", "good"], [3, 4, 1, 2])
    features = word_features([example], tokenizer, 40)
    tokens = tokenizer.convert_ids_to_tokens(features[0]["input_ids"])
    assert tokens == ["[CLS]", "film", "##s", "a", "##r", "##e", "good", "[SEP]"]
    assert features[0]["labels"] == [-100, 3, -100, 1, -100, -100, 2, -100]
    assert features.first_tokens == [[1, None, 3, 6]]
    assert features.report == report(0.0, 4, 0, 1)
    # At seven tokens the last word is cut off; at six the one before it as well, but for its first token.
    for limit, places, lost in ((7, [1, None, 3, None], 1), (6, [1, None, 3, None], 1), (4, [1, None, None, None], 3)):
        features = word_features([example, WordsExample(["film"], [0])], tokenizer, limit)
        assert features.first_tokens == [places, [1]]
        assert features.report == report(0.5, 5, lost, places.count(None) - lost)


def test_a_batch_of_one_sentence(tokenizer):
    collate = DataCollatorForTokenClassification(tokenizer, padding="max_length", max_length=40)
    batch = collate([word_features([WordsExample(["a", "film"], [1, 0])], tokenizer, 40)[0]])
    assert batch["input_ids"].shape == batch["labels"].shape == (1, 40)
    assert batch["labels"][0].tolist() == [-100, 1, 0] + [-100] * 37
    unlabelled = collate([word_features([WordsExample(["a", "film"], None)], tokenizer, 40)[0]])
    assert "labels" not in unlabelled


@pytest.fixture
def roberta_folder(tmp_path):
    """A tiny RoBERTa with a byte-level tokenizer that knows of two merges."""
    folder = tmp_path / "roberta"
    letters = "abcdefghijklmnopqrstuvwxyz"
    pieces = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", "Ġ", *letters, "ab", "Ġab"]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    merges = [("a", "b"), ("Ġ", "ab")]
    RobertaTokenizer(vocab=vocabulary, merges=merges, model_max_length=40).save_pretrained(folder)
    tiny_backbone("roberta", "token", dtype=torch.float32, pad_token_id=1).base_model.save_pretrained(folder)
    return str(folder)


def test_words_of_a_byte_level_tokenizer_begin_with_a_space(roberta_folder, data_dir, tmp_path):
    """In transformers 5 a byte-level tokenizer takes each word for the end of another one, and nothing says so."""
    flags = ("--do_train", "--model_type", "roberta")
    trained = run_folder(main, data_dir, roberta_folder, tmp_path / "run", "wnut17", *flags)
    tokenizer = AutoTokenizer.from_pretrained(trained / "best")
    features = word_features([WordsExample(["ab", "cab"], [1, 2])], tokenizer, 40)
    assert tokenizer.convert_ids_to_tokens(features[0]["input_ids"]) == ["<s>", "Ġab", "Ġ", "c", "ab", "</s>"]
    assert features[0]["labels"] == [-100, 1, 2, -100, -100, -100]


def test_words_of_a_byte_level_tokenizer_that_takes_no_prefix_space():
    """As ModernBERT's and EuroBERT's: they ignore add_prefix_space."""
    backend = Tokenizer(BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = trainers.BpeTrainer(vocab_size=300, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    backend.train_from_iterator(["the cat lives in the city"] * 9, alphabet)
    generic = PreTrainedTokenizerFast(tokenizer_object=backend, add_prefix_space=True)
    features = word_features([WordsExample(["the", "cat", "lives"], [0, 1, 2])], generic, 40)
    found = generic.convert_ids_to_tokens(features.columns["input_ids"][0])
    assert [found[place] for place in features.first_tokens[0]] == ["\u0120the", "\u0120cat", "\u0120lives"]


def test_a_slow_tokenizer_is_one_sentence():
    slow = SimpleNamespace(is_fast=False)
    said = message(word_features, [WordsExample(["a"], [0])], slow, 40)
    assert said.startswith("--use_slow_tokenizer: a token task needs a fast tokenizer")


# --- scores ---

GOLD = [["B-per", "I-per", "O", "B-loc"], ["O", "B-per", "O"]]
PREDICTED = [["B-per", "I-per", "O", "O"], ["O", "B-loc", "B-loc"]]


def test_scores_over_words_and_over_entities():
    scores = compute_words(WNUT.metrics, GOLD, PREDICTED)
    # Words: 2 right of 4 predicted and 4 to find. Entities: 1 right of 3 predicted and 3 to find.
    expected = {"token_f1": 50.0, "entity_f1": 100 / 3, "entity_precision": 100 / 3, "entity_recall": 100 / 3}
    assert scores == pytest.approx(expected | {f"{name}_all_words": value for name, value in expected.items()})
    assert next(iter(scores)) == "token_f1"
    flat = [[tag for row in rows for tag in row] for rows in (GOLD, PREDICTED)]
    kinds = ["B-per", "I-per", "B-loc"]
    assert scores["token_f1"] == pytest.approx(100 * f1_score(*flat, labels=kinds, average="micro"))


def test_unseen_words_count_as_wrong_in_the_second_scores():
    unseen = [["B-per", None, "O", None], ["O", "B-per", None]]
    scores = compute_words(WNUT.metrics, GOLD, unseen)
    assert scores["token_f1"] == 100.0
    assert scores["entity_recall"] == 100.0
    # 2 words right of 2 predicted, 4 to find; the first span ends too early.
    assert scores["token_f1_all_words"] == pytest.approx(200 / 3)
    assert scores["entity_precision_all_words"] == pytest.approx(50.0)
    assert scores["entity_recall_all_words"] == pytest.approx(100 / 3)
    assert outside_where_unseen(unseen) == [["B-per", "O", "O", "O"], ["O", "B-per", "O"]]


def test_accuracy_of_tags_and_sets_without_entities():
    scores = compute_words(("accuracy",), [["DT", "NN"], ["NN", "VB"]], [["DT", "NN"], ["JJ", None]])
    assert scores == pytest.approx({"accuracy": 200 / 3, "accuracy_all_words": 50.0})


@pytest.mark.parametrize(
    ("tags", "predictions", "undefined"),
    [
        ([["O"]], [["O"]], "token_f1 entity_f1 entity_precision entity_recall"),
        ([["B-group"]], [["O"]], "entity_precision"),
        ([["O"]], [["B-group"]], "entity_recall"),
        ([["B-group"]], [[None]], "token_f1 entity_f1 entity_precision entity_recall entity_precision_all_words"),
        ([["B-group", "O"]], [["B-group", NO_TAG]], "all"),
    ],
)
def test_scores_that_are_not_defined_are_zero_with_one_warning(tags, predictions, undefined, caplog, recwarn):
    caplog.set_level("WARNING", "asa")
    scores = compute_words(WNUT.metrics, tags, predictions)
    assert set(scores.values()) == {0.0}
    (record,) = caplog.records
    said = record.getMessage().split(":")[0].split(", ")
    if undefined == "all":
        assert said == list(scores)
    else:
        assert set(undefined.split()) <= set(said)
        assert {"token_f1_all_words"} & set(said) == (
            {"token_f1_all_words"} if tags == [["O"]] == predictions else set()
        )
    assert not recwarn.list


def test_predictions_that_are_no_numbers_are_not_written(tmp_path):
    said = message(write_words, tmp_path / "x.tsv", [WordsExample(["a", "film"], None)], [["O", NO_TAG]])
    assert "x.tsv: not written, for the model's output is not a number in 1 place" in said
    assert not list(tmp_path.iterdir())


# --- predictions ---


def test_predictions_are_read_back_word_by_word(tmp_path, data_dir):
    path = tmp_path / "x.tsv"
    for task, name in ((WNUT, "WNUT17/emerging.dev.conll"), (CONLL, "conll2003/valid.txt")):
        examples = read_file(task, data_dir / name, True)
        write_words(path, examples, [[task.labels[label] for label in row.labels] for row in examples])
        assert read_file(task, path, True) == examples
    assert path.read_text() == "the\tB-ORG\nfilm\tI-ORG\nmusic\tB-ORG\nis\tO\n\nvivid\tB-PER\n\ndull\tB-MISC\n\n"


# --- losses ---


def run_of(model, collate=None) -> SimpleNamespace:
    args = Namespace(max_grad_norm=0.0, eval_batch_size=1, num_workers=0)
    head = Head(auto_class=None, collate=collate, score=None, write=None)
    return SimpleNamespace(args=args, model=model, accelerator=Accelerator(cpu=True), head=head, interruption=None)


def step(head: str, method: str, protocol: str, num_labels: int, parts: int, batch: dict) -> tuple[dict, dict]:
    """The parameters after one step of plain gradient descent on the batch in parts, and the step's figures."""
    settings = Namespace(tau=0.5, protocol=protocol)
    model = methods.build(method, tiny_backbone("bert", head, num_labels=num_labels), settings)
    torch.manual_seed(0)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    size = len(batch["labels"]) // parts
    pieces = [{name: value[n * size : (n + 1) * size] for name, value in batch.items()} for n in range(parts)]
    figures, _ = optimize(run_of(model.train()), pieces, optimizer)
    return {name: value.detach() for name, value in model.named_parameters()}, figures


HEADS = [("sequence", 3, "release"), ("sequence", 1, "corrected"), ("choice", 3, "corrected"), ("token", 3, "release")]


@pytest.mark.parametrize("method", ["asa", "naive"])
@pytest.mark.parametrize(("head", "num_labels", "protocol"), [*HEADS, ("token", 3, "corrected")])
def test_accumulation_is_exact(head, num_labels, protocol, method):
    rows = 16 if head == "choice" else 8
    batch = tiny_batch(head, [9, 4, 6, 2, 8, 3, 3, 7, 5, 4, 9, 2, 6, 3, 8, 4][:rows], num_labels=num_labels)
    if head == "token":
        batch["labels"][2:4] = -100  # one of the parts has no label
    whole, figures = step(head, method, protocol, num_labels, 1, batch)
    accumulated, sums = step(head, method, protocol, num_labels, 4, batch)
    for name, value in whole.items():
        torch.testing.assert_close(accumulated[name], value, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(sums["train_loss"], figures["train_loss"], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("protocol", ["corrected", "release"])
def test_asa_without_labels_is_its_regularizer(protocol):
    batch = tiny_batch("token")
    batch["labels"][:] = -100
    output = AsaModel(tiny_backbone("bert", "token"), protocol=protocol).train()(**batch)
    assert output.task_loss == 0.0
    assert (output.divergence == 0.0) == (protocol == "corrected")
    torch.testing.assert_close(output.loss, output.divergence + 0.25 * output.penalty)
    torch.testing.assert_close(accumulation.weighted_loss(output, (2, 4), (0, 7)), output.loss * 0.5)


@pytest.mark.parametrize("method", ["asa", "naive"])
def test_a_batch_without_labels_changes_nothing_through_the_task(method):
    batch = tiny_batch("token")
    batch["labels"][:] = -100
    after, figures = step("token", method, "corrected", 3, 2, batch)
    assert figures["train_loss"] == 0.0
    assert all(value.isfinite().all() for value in after.values())
    before = tiny_backbone("bert", "token", num_labels=3).state_dict()
    torch.testing.assert_close(after["classifier.weight" if method == "naive" else "backbone.classifier.weight"],
                               before["classifier.weight"])  # fmt: skip


def test_the_eval_loss_is_a_mean_over_labels(encoder_folder, tokenizer):
    rows = [["the", "film", "is", "good"], [ACCENT], ["warm"]]
    examples = [WordsExample(words, [index % 3 for index in range(len(words))]) for words in rows]
    features = word_features(examples, tokenizer, 40)
    model = tiny_backbone("bert", "token", vocab_size=200)
    run = run_of(model, DataCollatorForTokenClassification(tokenizer))
    logits, loss = predict(run, features)
    assert [len(row) for row in logits] == features.lengths
    at_labels = [
        (torch.tensor(row[place]), label)
        for row, example, places in zip(logits, examples, features.first_tokens, strict=True)
        for label, place in zip(example.labels, places, strict=True)
        if place is not None
    ]
    expected = torch.nn.functional.cross_entropy(
        torch.stack([row for row, _ in at_labels]), torch.tensor([label for _, label in at_labels])
    )
    assert len(at_labels) == 5
    assert loss == pytest.approx(expected.item(), rel=1e-5)


# --- the script ---

# task -> its folder, sentences, words, and words without tokens
FILES = {"WNUT-2017": ("WNUT17", 3, 8, 2), "CoNLL-2003": ("conll2003", 3, 6, 0), "PTB": ("ptb", 2, 4, 0)}


@pytest.mark.parametrize(
    ("task", "flags"),
    [
        ("wnut-17", ("--protocol", "release", "--eval_on", "test")),
        ("CoNLL-2003", ("--method", "naive", "--gradient_accumulation_steps", "2")),
        ("ptb", ("--group_by_length",)),
    ],
)
def test_script_trains_evaluates_and_tests(data_dir, encoder_folder, tmp_path, task, flags):
    folder = run_folder(
        main, data_dir, encoder_folder, tmp_path / "run", task, "--do_train", "--do_eval", "--do_test", *flags
    )
    results = results_of(folder)
    known = find_task(task, TOKEN_TASKS)
    folder_name, sentences, words, without_tokens = FILES[known.name]
    assert results["examples"] == {"train": sentences, "eval": sentences, "test": sentences}
    assert results["unseen"] == dict.fromkeys(("train", "eval", "test"), report(0.0, words, 0, without_tokens))
    best = results["best"]
    assert list(best["metrics"]) == [*known.metrics, *(f"{name}_all_words" for name in known.metrics)]
    assert best["eval_score"] == best["metrics"][known.metrics[0]]
    assert (folder / "eval_results.txt").read_text() == (
        f"Epoch 0: global step = {(sentences + 1) // 2} | train loss = {best['train_loss']:.3f}"
        f" | eval score = {best['eval_score']:.2f} | eval loss = {best['eval_loss']:.3f}\n"
    )

    # The dev and test files are one text here, so the predictions make the score again.
    labelled = with_labels(known, str(data_dir))
    gold = read_file(labelled, next((data_dir / folder_name).glob("*test*")), True)
    written = list(read_tagged(folder / f"{known.name}.tsv", True))
    assert [sentence for sentence, _, _ in written] == [example.words for example in gold]
    tags = [[labelled.labels[label] for label in example.labels] for example in gold]
    again = compute_words(known.metrics, tags, [tags for _, tags, _ in written])
    for name in known.metrics:
        assert again[name] == pytest.approx(best["metrics"][f"{name}_all_words"])


@pytest.mark.parametrize("task", ["WNUT-2017", "PTB"])
def test_a_saved_checkpoint_gives_the_same_scores(data_dir, encoder_folder, tmp_path, task):
    trained = run_folder(main, data_dir, encoder_folder, tmp_path / "run", task, "--do_train", "--do_eval")
    check_saved_checkpoint(main, data_dir, encoder_folder, trained, tmp_path, task)


def test_defaults_are_those_of_the_release(data_dir, encoder_folder, tmp_path):
    settings = ["--do_train", "--task_name", "wnut17", "--max_train_steps", "1", "--max_seq_length", "16", "--no_cuda"]
    places = ["--data_dir", str(data_dir), "--load_model_path", encoder_folder, "--output_dir", str(tmp_path / "run")]
    main([*settings, *places])
    expected = {"train_batch_size": 32, "eval_batch_size": 64, "learning_rate": 5e-5, "warmup_proportion": 0.1}
    expected |= {"weight_decay": 0.0, "task_name": "WNUT-2017"}
    used = results_of(tmp_path / "run")["args"]
    assert {name: used[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ({"method": "asa", "asa_divergence_weight": 1.0, "tau": 0.5}, "--asa_divergence_weight 0.05 --tau 0.11"),
        ({"method": "asa_budget", "asa_divergence_weight": 1.0}, "--asa_divergence_weight 0.05"),
        ({"method": "random_mask", "asa_divergence_weight": 1.0}, "--asa_divergence_weight 0.05"),
        ({"method": "rdrop", "rdrop_alpha": 1.0}, "--rdrop_alpha 0.05"),
        ({"method": "smart", "smart_weight": 1.0, "smart_bregman": 0.05}, "--smart_weight 0.05 --smart_bregman 0.05"),
        ({"method": "r3f", "r3f_weight": 1.0}, "--r3f_weight 0.05"),
        ({"method": "rdrop", "rdrop_alpha": 0.05}, None),
        ({"method": "naive"}, None),
    ],
)
def test_a_divergence_summed_over_words_is_warned_of(args, said, caplog):
    warn_of_the_sum(Namespace(**args), 20.0)
    advice = [message.rpartition("plain fine-tuning. ")[2] for message in caplog.messages]
    assert advice == ([] if said is None else [f"{said} weighs it as that of one word"])
