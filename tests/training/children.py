"""Scripts in processes of their own, which may be killed; forked from one that has imported everything.

As a program, under torchrun, it is a script of which the second process gets a signal:
children.py MODULE FUNCTION CALL SIGNAL SCRIPT ARGUMENTS...
"""

import importlib
import multiprocessing
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent.parent.parent))

from utils import run_script

SCRIPTS = ("run_sent_clas", "run_multi_cho", "run_tok_clas", "run_mlm")
# A place of the program: module, function, which call of it, and the signal that arrives there; if negative, it arrives
# at the processes of the data loader, too.
Blow = tuple[str, str, int, int]


def start(script: str, argv: Sequence[str], log: Path, *blows: Blow, **limits: int) -> multiprocessing.Process:
    """Start a script; what it prints goes to the log.

    Args:
        blows: signals that the process sends itself.
        limits: of `resource.setrlimit`, by name.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*SCRIPTS, "training.run"])
    process = context.Process(target=_child, args=(script, list(argv), str(log), blows, limits))
    process.start()
    return process


def run(script: str, argv: Sequence[str], log: Path, *blows: Blow, **limits: int) -> int:
    """Run a script to its end: its exit status, or minus the number of the signal that killed it."""
    process = start(script, argv, log, *blows, **limits)
    process.join()
    return process.exitcode


def _child(script: str, argv: list[str], log: str, blows: Sequence[Blow], limits: dict[str, int]) -> None:
    import resource

    os.setpgrp()
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background
    for name, limit in limits.items():
        resource.setrlimit(getattr(resource, name), (limit, limit))
    for blow in blows:
        _arm(*blow)
    _run(script, argv)


def _run(script: str, argv: list[str]) -> None:
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

if __name__ == "__main__":
    module, function, call, number, script, *arguments = sys.argv[1:]
    if os.environ["RANK"] == "1":
        _arm(module, function, int(call), int(number))
    _run(script, arguments)
