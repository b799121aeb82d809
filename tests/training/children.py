"""Scripts in processes of their own, which may be killed; forked from one that has imported everything."""

import contextlib
import faulthandler
import importlib
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from multiprocessing import forkserver
from pathlib import Path

from double import in_double
from one_node import free_ports

from utils import run_script

SCRIPTS = ("run_sent_clas", "run_multi_cho", "run_tok_clas", "run_mlm")
ROOT = Path(__file__).parent.parent.parent
# Seconds for a process, or two that share the work; on a busy machine they take 15. Then it writes in its log where its
# threads stand, and ends; one that cannot do so is killed a little later.
PATIENCE, MORE = 120, 20
# A place of the program: module, function, which call of it, and the signal that arrives there; if negative, it arrives
# at the processes of the data loader, too.
Blow = tuple[str, str, int, int]


def start(script: str, argv: Sequence[str], log: Path, *blows: Blow, **limits: int) -> multiprocessing.Process:
    """Start a script; what it prints goes to the log.

    Args:
        blows: signals that the process sends itself.
        limits: of `resource.setrlimit`, by name.
    """
    return _start(_child, script, list(argv), str(log), blows, limits)


def _start(target, *given) -> multiprocessing.Process:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*SCRIPTS, "training.run"])
    with contextlib.chdir(ROOT):  # where the server looks for these modules; it passes over what it does not find
        forkserver.ensure_running()
    process = context.Process(target=target, args=given)
    process.start()
    return process


def _wait(process: multiprocessing.Process, end: float) -> int:
    """Its exit status; killed if it has not ended by then."""
    process.join(max(0.0, end - time.monotonic()))
    if process.is_alive():
        process.kill()
        process.join()
    return process.exitcode


def run(script: str, argv: Sequence[str], log: Path, *blows: Blow, **limits: int) -> int:
    """Run a script to its end: its exit status, or minus the number of the signal that killed it."""
    process = start(script, argv, log, *blows, **limits)
    return _wait(process, time.monotonic() + PATIENCE + MORE)


def run_both(
    script: str, argv: Sequence[str], folder: Path, *blows: Blow, double: bool = False
) -> tuple[list[int], str]:
    """Run a script in two processes that share the work, as under torchrun: their exit statuses, and what they say.

    Processes that wait for each other for ever are ended.

    Args:
        folder: of their logs.
        blows: signals that the second one sends itself.
        double: in double precision.
    """
    [port] = free_ports(1)
    logs = [folder / f"{rank}.log" for rank in range(2)]
    for log in logs:
        log.unlink(missing_ok=True)
    processes = [
        _start(_one_of_two, rank, port, double, script, list(argv), str(logs[rank]), blows if rank else ())
        for rank in range(2)
    ]
    end = time.monotonic() + PATIENCE + MORE
    return [_wait(process, end) for process in processes], "".join(log.read_text() for log in logs)


def end_launcher(launcher: subprocess.Popen) -> None:
    """End a torchrun that may still be at work; it then ends its processes, which are in sessions of their own."""
    launcher.terminate()
    try:
        launcher.wait(60)  # it kills them after 30 seconds
    except subprocess.TimeoutExpired:
        launcher.kill()
        launcher.wait()


def _one_of_two(rank: int, port: int, double: bool, script: str, argv: list[str], log: str, blows: tuple) -> None:
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2}
    place |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in place.items()})
    if double:
        in_double()
    _child(script, argv, log, blows, {})


def _child(script: str, argv: list[str], log: str, blows: Sequence[Blow], limits: dict[str, int]) -> None:
    import resource

    os.setpgrp()
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    faulthandler.enable()
    faulthandler.dump_traceback_later(PATIENCE, exit=True)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background
    for name, limit in limits.items():
        resource.setrlimit(getattr(resource, name), (limit, limit))
    for blow in blows:
        _arm(*blow)
    sys.argv = [f"{script}.py"]
    main = importlib.import_module(script).main
    run_script(lambda: main(argv))


def _arm(module: str, function: str, call: int, number: int) -> None:
    """Let the signal arrive just before a call of a function."""
    owner = importlib.import_module(module)
    original, calls = getattr(owner, function), iter(range(1, 10**9))

    def counted(*args, **kwargs):
        if next(calls) == call:
            os.kill(os.getpid(), number) if number > 0 else os.killpg(os.getpgrp(), -number)
        return original(*args, **kwargs)

    setattr(owner, function, counted)


KILL, TERMINATE, INTERRUPT = signal.SIGKILL, signal.SIGTERM, signal.SIGINT
