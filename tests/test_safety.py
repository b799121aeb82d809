"""Nobody gets in: neither a checkpoint, nor an encoder's folder, nor a cache runs code of its own."""

import ast
import json
import pickle
import re
from pathlib import Path

import pyarrow
import pytest
import torch
from conftest import save_tiny_encoder
from script_runs import run_folder
from test_bad_files import GOOD_FILES, write_set
from test_bad_input import RunsCode
from transformers import AutoTokenizer

import run_sent_clas
from data import cache
from data.cache import StoredFeatures, cached
from data.features import sentence_features
from data.readers import Examples
from data.tasks import SENTENCE_TASKS
from utils import file_sha256, write_json

ROOT = Path(__file__).parent.parent
SST = SENTENCE_TASKS["SST-2"]
MAKES_A_FOLDER = "import os\nos.mkdir({marker!r})\nclass Own: pass\n"


@pytest.fixture
def encoder(tmp_path) -> Path:
    save_tiny_encoder(tmp_path / "encoder")
    return tmp_path / "encoder"


@pytest.fixture
def data_dir(tmp_path) -> Path:
    write_set(tmp_path / "data", "SST-2", "train", GOOD_FILES["SST-2"])
    return tmp_path / "data"


def change(path: Path, **changes) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_code_that_a_configuration_names_is_not_run(encoder, data_dir, tmp_path, refused):
    (encoder / "own.py").write_text(MAKES_A_FOLDER.format(marker=str(tmp_path / "was_here")))
    named = dict.fromkeys(("AutoConfig", "AutoModel", "AutoModelForSequenceClassification"), "own.Own")
    change(encoder / "config.json", auto_map=named)
    change(encoder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["own.Own", "own.Own"]})
    # Of a type that the library knows, its own class is taken.
    run_folder(run_sent_clas.main, data_dir, str(encoder), tmp_path / "run", "SST-2", "--do_train")
    change(encoder / "tokenizer_config.json", tokenizer_class="OwnTokenizer")
    run_folder(run_sent_clas.main, data_dir, str(encoder), tmp_path / "again", "SST-2", "--do_train")
    change(encoder / "config.json", model_type="own")
    assert "its config.json describes no model that transformers knows" in refused(
        "SST-2", "--do_train", data_dir=data_dir, load_model_path=encoder
    )
    assert not (tmp_path / "was_here").exists()


@pytest.mark.parametrize("old", [True, False])
def test_weights_with_code_in_them_are_refused(old, encoder, data_dir, tmp_path, refused):
    (encoder / "model.safetensors").unlink()
    content = {"embeddings.LayerNorm.weight": RunsCode()}
    torch.save(content, encoder / "pytorch_model.bin", _use_new_zipfile_serialization=not old)
    said = refused("SST-2", "--do_train", data_dir=data_dir, load_model_path=encoder)
    assert said.startswith(f"--load_model_path {encoder}: its weights cannot be loaded: they hold Python")
    (encoder / "pytorch_model.bin").write_bytes(pickle.dumps(RunsCode()))
    said = refused("SST-2", "--do_train", data_dir=data_dir, load_model_path=encoder)
    assert said.startswith(f"--load_model_path {encoder}: its weights cannot be loaded: they hold Python")
    assert not (tmp_path / "was_here").exists()  # the working folder is tmp_path


def test_a_cache_with_code_in_it_is_data(encoder, data_dir, tmp_path, monkeypatch):
    """An Arrow file can name a pickled type; old versions of pyarrow made it."""
    monkeypatch.setattr(cache, "CACHED_FROM", 0)
    monkeypatch.chdir(tmp_path)
    examples = Examples(SST, [data_dir / "SST-2" / "train.tsv"], True)
    use = cached("cache", sentence_features, AutoTokenizer.from_pretrained(encoder), max_seq_length=16)
    expected = list(use(examples))
    (about,) = (tmp_path / "cache").glob("*/about.json")
    rows = about.parent / "rows.arrow"
    with pyarrow.ipc.open_stream(rows.read_bytes()) as stream:
        table = stream.read_all()
    kind = {"ARROW:extension:name": "arrow.py_extension_type", "ARROW:extension:metadata": pickle.dumps(RunsCode())}
    table = table.set_column(0, table.schema.field(0).with_metadata(kind), table.column(0))
    rows.unlink()
    with pyarrow.OSFile(str(rows), "wb") as file, pyarrow.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table)
    record = json.loads(about.read_text())
    del record["checksum"]
    record["sha256"] = file_sha256(rows)
    write_json(about, record | {"checksum": cache._checksum(record)})
    found = use(examples)
    assert isinstance(found, StoredFeatures)
    assert list(found) == expected
    assert not (tmp_path / "was_here").exists()


def calls(tree: ast.AST):
    """(dotted name, keyword -> expression) of every call."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}


ROOMS = ("data", "models", "training", "experiments", "figures", "benchmarks")


def test_no_call_of_ours_could_run_code():
    loads = 0
    for path in [*ROOT.glob("*.py"), *(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))]:
        for name, keywords in calls(ast.parse(path.read_text())):
            where = f"{path.name}: {name}"
            assert name not in ("eval", "exec", "pickle.load", "pickle.loads", "joblib.load", "yaml.load"), where
            if name == "torch.load":
                assert keywords["weights_only"] == "True", where
                loads += 1
            if name.endswith("from_pretrained") and "save" not in name:
                assert keywords["trust_remote_code"] == "False", where
                loads += 1
            if name == "np.load":
                assert keywords.get("allow_pickle", "False") == "False", where
    assert loads >= 4


def pinned(name: str) -> dict[str, list[str]]:
    """Package -> its versions in a requirements file."""
    found = {}
    for line in (ROOT / name).read_text().splitlines():
        if requirement := re.match(r"([a-z0-9-]+)==(\S+)", line):
            found.setdefault(requirement[1], []).append(requirement[2])
    return found


def test_the_lock_holds_what_is_required_with_a_checksum_each():
    locked = pinned("requirements.lock")
    for package, versions in (pinned("requirements.txt") | pinned("requirements-dev.txt")).items():
        assert package == "torch" or locked[package] == versions
    assert not {"torch", "triton"} & set(locked)
    packages = re.split(r"\n(?=[a-z])", (ROOT / "requirements.lock").read_text())[1:]
    assert len(packages) == sum(map(len, locked.values()))
    assert all(re.search(r"--hash=sha256:[0-9a-f]{64}", package) for package in packages)
