"""Tiny random models, a tiny tokenizer and small text of our own; everything runs offline on CPU."""

import contextlib
import logging
import os
import signal
import sys
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # the models are tiny: threads would only wait for each other
sys.path.insert(0, str(Path(__file__).parent.parent))

if sys.platform == "linux":
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # else it takes the address of the machine's name, if it has one

import pytest
import torch
import transformers
from accelerate.state import AcceleratorState
from transformers import (
    AutoConfig,
    AutoModelForMaskedLM,
    AutoModelForMultipleChoice,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)

from models.encoder_types import ENCODER_TYPES

HEADS = {
    "sequence": AutoModelForSequenceClassification,
    "choice": AutoModelForMultipleChoice,
    "token": AutoModelForTokenClassification,
    "masked_lm": AutoModelForMaskedLM,
}
VOCABULARY = 60
BERT_SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 100,
    "initializer_range": 0.3,  # wide, so that the adversaries neither keep nor mask everything
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "pad_token_id": 0,
}
# Of rotary and other newer encoders, which know no setting of BERT's that they do not name; they count heads alike.
ROTARY_SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "head_dim": 12,
    "intermediate_size": 32,
    "max_position_embeddings": 100,
    "initializer_range": 0.3,
    "pad_token_id": 0,
}
DEBERTA_SIZES = BERT_SIZES | {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "max_relative_positions": 8}
SIZES = {
    "albert": BERT_SIZES | {"embedding_size": 16, "classifier_dropout_prob": 0.0},
    "bert": BERT_SIZES,
    "camembert": BERT_SIZES,
    "data2vec-text": BERT_SIZES,
    "deberta": DEBERTA_SIZES,
    "deberta-v2": DEBERTA_SIZES | {"position_buckets": 4, "conv_kernel_size": 3, "norm_rel_ebd": "layer_norm"},
    "distilbert": {
        "vocab_size": VOCABULARY,
        "dim": 24,
        "n_layers": 3,
        "n_heads": 2,
        "hidden_dim": 32,
        "max_position_embeddings": 100,
        "initializer_range": 0.3,
        "dropout": 0.0,
        "attention_dropout": 0.0,
        "seq_classif_dropout": 0.0,
        "pad_token_id": 0,
    },
    "electra": BERT_SIZES | {"embedding_size": 16, "summary_last_dropout": 0.0},
    "ernie": BERT_SIZES,
    "esm": BERT_SIZES | {"mask_token_id": 4, "position_embedding_type": "rotary", "token_dropout": True},
    "esmc": ROTARY_SIZES | {"num_key_value_heads": 2, "classifier_dropout": 0.0},
    "eurobert": ROTARY_SIZES | {"num_key_value_heads": 2},
    "gte": BERT_SIZES,
    "ibert": BERT_SIZES,
    "jina_embeddings_v3": BERT_SIZES,
    "layoutlm": BERT_SIZES,
    "megatron-bert": BERT_SIZES,
    "mobilebert": BERT_SIZES
    | {
        "embedding_size": 16,
        "intra_bottleneck_size": 12,
        "num_feedforward_networks": 2,
        "initializer_range": 0.2,  # nothing is normalised there
    },
    "modernbert": ROTARY_SIZES
    | {
        "local_attention": 4,  # two tokens to either side
        "layer_types": ["full_attention", "sliding_attention", "sliding_attention"],
        "cls_token_id": 2,
        "sep_token_id": 3,
    },
    "mpnet": BERT_SIZES,
    "nomic_bert": BERT_SIZES | {"head_dim": 12},
    "rembert": BERT_SIZES | {"input_embedding_size": 16, "output_embedding_size": 16, "classifier_dropout_prob": 0.0},
    "roberta": BERT_SIZES,
    "roberta-prelayernorm": BERT_SIZES,
    "roc_bert": BERT_SIZES
    | {
        "pronunciation_embed_dim": 8,
        "pronunciation_vocab_size": VOCABULARY,
        "shape_embed_dim": 8,
        "shape_vocab_size": VOCABULARY,
    },
    "roformer": BERT_SIZES | {"embedding_size": 16},
    "xlm-roberta": BERT_SIZES,
    "xlm-roberta-xl": BERT_SIZES,
    "xmod": BERT_SIZES | {"pre_norm": True, "languages": ["en_XX", "de_DE"], "default_language": "en_XX"},
}
WORDS = (
    "a acting and bad bright cast charming clumsy comedy dialogue direction drama dull ending film fine flat fresh"
    " funny good great has honest in is it lovely moving music not of plot poor score script sharp slow story the this"
    " thriller tired ugly vivid warm weak with yesterday ##ly ##s . , ' ?"
).split()


PNG = b"\x89PNG\r\n\x1a\n"  # how such a file begins

# Files that take a minute or more, longest first: begun early, none is left alone at the end.
LONG = ("test_slurm.py", "test_resume.py", "test_processes.py")


def pytest_collection_modifyitems(items):
    order = {name: place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: order.get(item.path.name, len(order)))


def tiny_backbone(
    model_type: str = "bert",
    head: str = "sequence",
    attention: str = "",
    num_labels: int = 3,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
    **changes,
) -> transformers.PreTrainedModel:
    """A random model of three layers without dropout; with SDPA where it has that and nothing else is asked for."""
    torch.manual_seed(seed)
    attention = attention or ENCODER_TYPES[model_type].attention[-1]
    config = AutoConfig.for_model(model_type, **SIZES[model_type] | {"num_labels": num_labels} | changes)
    return HEADS[head].from_config(config, attn_implementation=attention).to(dtype)


def tiny_batch(
    head: str = "sequence", lengths=(9, 4, 6, 2), padded_to: int | None = None, num_labels: int = 3, seed: int = 1
) -> dict[str, torch.Tensor]:
    """A batch of rows with those lengths, padded on the right; the same tokens whatever it is padded to.

    For multiple choice, every two rows are the choices of one example.
    """
    generator = torch.Generator().manual_seed(seed)
    width = padded_to or max(lengths)
    ids = torch.zeros(len(lengths), width, dtype=torch.long)
    mask = torch.zeros_like(ids)
    tokens = torch.full_like(ids, -100)
    for row, length in enumerate(lengths):
        ids[row, :length] = torch.randint(5, VOCABULARY, (length,), generator=generator)
        mask[row, :length] = 1
        tokens[row, 1:length] = torch.randint(0, num_labels, (length - 1,), generator=generator)
    batch = {"input_ids": ids, "attention_mask": mask}
    if head == "choice":
        batch = {name: tensor.view(-1, 2, width) for name, tensor in batch.items()}
        return batch | {"labels": torch.randint(0, 2, (len(lengths) // 2,), generator=generator)}
    if head in ("token", "masked_lm"):
        return batch | {"labels": tokens}
    if num_labels == 1:
        return batch | {"labels": torch.rand(len(lengths), generator=generator, dtype=torch.float64)}
    return batch | {"labels": torch.randint(0, num_labels, (len(lengths),), generator=generator)}


def relative_error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """Norm of the difference over norm of the expected value, in float64."""
    difference = (actual.double() - expected.double()).norm()
    return (difference / expected.double().norm().clamp(min=1e-300)).item()


def gradients(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Parameter name -> gradient, of the parameters that have one."""
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


@pytest.fixture
def foreground():
    """Signals as in the foreground: the background of a script ignores SIGINT, and nohup SIGHUP."""
    given = {signal.SIGINT: signal.default_int_handler, signal.SIGHUP: signal.SIG_DFL}
    before = {number: signal.signal(number, handler) for number, handler in given.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(autouse=True)
def fresh_accelerate():
    """Accelerate keeps its device and precision for the life of a process; every test chooses its own."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="session")
def encoder_folder(tmp_path_factory) -> str:
    """A Hugging Face folder with a tiny BERT encoder and its tokenizer."""
    folder = tmp_path_factory.mktemp("encoder")
    save_tiny_encoder(folder)
    return str(folder)


def save_tiny_encoder(folder: Path, **changes) -> None:
    """Write a tiny BERT (without a head) and a WordPiece tokenizer of `WORDS`; `changes` are made to its config."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    pieces = list("abcdefghijklmnopqrstuvwxyz0123456789")
    words = special + WORDS + [word for word in pieces if word not in WORDS] + [f"##{piece}" for piece in pieces]
    vocabulary = {word: index for index, word in enumerate(dict.fromkeys(words))}
    tokenizer = transformers.BertTokenizer(vocab=vocabulary, do_lower_case=True, model_max_length=64)
    torch.manual_seed(0)
    sizes = BERT_SIZES | {"vocab_size": len(vocabulary), "max_position_embeddings": 64, "num_hidden_layers": 2}
    config = AutoConfig.for_model("bert", **sizes | changes)
    transformers.AutoModel.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@pytest.fixture
def refused(tmp_path, tmp_path_factory, monkeypatch, capsys):
    """refused(task, flags, settings) -> the sentence with which the task's script ends, having written nothing.

    The output folder is `tmp_path / "out"`, in which a file of another's stands.
    """
    from script_runs import SCRIPTS, exit_status, flags_of, snapshot

    cache = tmp_path_factory.getbasetemp() / "tokens"

    def run(task: str, *flags: str, script=None, **settings) -> str:
        script = script or SCRIPTS[task]
        name = Path(script.__file__).name
        monkeypatch.setattr(sys, "argv", [name])
        monkeypatch.chdir(tmp_path)
        (tmp_path / "out").mkdir(exist_ok=True)
        (tmp_path / "out" / "notes.txt").write_text("kept")
        before = snapshot(tmp_path)
        capsys.readouterr()
        given = {
            "task_name": task,
            "output_dir": tmp_path / "out",
            "max_seq_length": 40,
            "token_cache_dir": cache,
        } | settings
        assert exit_status(script.main, *flags_of(given), *flags) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert "Traceback" not in err
        said = [line for line in err.splitlines() if line.startswith(f"{name}: error: ")]
        assert len(said) == 1
        assert err.endswith(f"{said[0]}\n")
        assert snapshot(tmp_path) == before
        return said[0].removeprefix(f"{name}: error: ")

    return run


@pytest.fixture
def offline(tmp_path_factory, monkeypatch, caplog):
    """`datasets` keeps what it reads in a folder of the tests; the log is at hand."""
    import datasets  # takes a second

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.getbasetemp() / "datasets")
    caplog.set_level(logging.INFO, "asa")


@pytest.fixture
def script(encoder_folder, tmp_path):
    """script(module, flags, settings) -> exit status of a short run in `tmp_path / "out"`."""
    from script_runs import exit_status, flags_of

    def run(module, *flags: str, **changes) -> int:
        settings = {
            "load_model_path": encoder_folder,
            "output_dir": tmp_path / "out",
            "max_train_steps": 3,
            "train_batch_size": 4,
            "learning_rate": "3e-3",
            "max_seq_length": 32,
            "no_cuda": "",
        } | changes
        settings = {name: value for name, value in settings.items() if value is not None}
        given = [part for part in flags_of(settings) if part]
        return exit_status(module.main, *given, *flags)

    return run


@pytest.fixture
def figures(monkeypatch) -> list:
    """The figures that a program has drawn, beside their files."""
    from figures import adversary, attention_maps, differences, drawing, training_curves  # matplotlib takes a second

    drawn = []

    @contextlib.contextmanager
    def picture(*arguments):
        with drawing.picture(*arguments) as figure:
            yield figure
            drawn.append(figure)

    for program in (adversary, attention_maps, differences, training_curves):
        monkeypatch.setattr(program, "picture", picture)
    return drawn


@pytest.fixture
def unsaved(monkeypatch, figures) -> list:
    """The same, where the files are not looked at, and stay empty: a picture takes half a second."""
    from matplotlib.figure import Figure

    monkeypatch.setattr(Figure, "savefig", lambda self, path, **_: path.touch())
    return figures


@pytest.fixture
def tokenizer(encoder_folder):
    return transformers.AutoTokenizer.from_pretrained(encoder_folder)


@pytest.fixture
def said(caplog):
    """What has been logged so far."""
    caplog.set_level("INFO", "asa")
    return lambda: [record.getMessage() for record in caplog.records]
