"""One run over two machines, which here are two addresses of this one, is that of one process."""

import contextlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from children import end_launcher
from one_node import free_ports
from test_processes import ROOT, arguments, data_dir  # noqa: F401

import run_sent_clas


def losses(folder: Path) -> list[float]:
    epochs = json.loads((folder / "results.json").read_text())["epochs"]
    return [epoch[name] for epoch in epochs for name in ("train_loss", "eval_loss", "eval_score")]


def test_two_machines_train_as_one(data_dir, encoder_folder, tmp_path):  # noqa: F811
    """Started by hand on each, with its number; the second sees no output folder."""
    one, two = tmp_path / "one", tmp_path / "two"
    run_sent_clas.main(arguments(data_dir, encoder_folder, one, "--max_train_steps", "3"))
    [port] = free_ports(1)
    given = arguments(data_dir, encoder_folder, two, "--max_train_steps", "3")
    with contextlib.ExitStack() as stack:
        machines = []
        for number, address in enumerate(("127.0.0.1", "127.0.0.2")):
            command = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--node_rank", str(number)]
            command += ["--master_addr", "127.0.0.1", "--master_port", str(port), "--local_addr", address]
            command += ["--nproc_per_node", "1", str(ROOT / "run_sent_clas.py"), *given]
            with open(tmp_path / f"{number}.log", "w") as log:
                machines.append(subprocess.Popen(command, stdout=log, stderr=log))
            stack.callback(end_launcher, machines[-1])
        for number, machine in enumerate(machines):
            assert machine.wait(timeout=180) == 0, (tmp_path / f"{number}.log").read_text()
    assert losses(two) == pytest.approx(losses(one), rel=1e-5)
