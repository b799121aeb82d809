"""A script whose training stands still, in its first four starts, before its second step until a signal comes.

paused.py MARKS SCRIPT ARGUMENTS...: each pause leaves an empty file in the folder MARKS. With the seed 13 it fails.
"""

import importlib
import itertools
import os
import signal
import sys
from pathlib import Path

PAUSES = 4


def main() -> None:
    marks, script, *arguments = sys.argv[1:]
    if ("--seed", "13") in itertools.pairwise(arguments):
        sys.exit(f"{script}.py: error: no luck")
    sys.path.insert(0, str(Path(__file__).parent.parent.parent))
    loop, utils = importlib.import_module("training.loop"), importlib.import_module("utils")
    paused, calls, optimize = len(list(Path(marks).iterdir())), itertools.count(1), loop.optimize

    def pause_then_optimize(*given):
        if next(calls) == 2 and paused < PAUSES:
            told, tell = os.pipe()  # signal.pause() would miss a signal that comes before it
            os.set_blocking(tell, False)
            signal.set_wakeup_fd(tell)
            (Path(marks) / str(paused)).touch()
            os.read(told, 1)
        return optimize(*given)

    loop.optimize = pause_then_optimize
    sys.argv = [f"{script}.py"]
    utils.run_script(lambda: importlib.import_module(script).main(arguments))


if __name__ == "__main__":
    main()
