"""What the project asks of the C library and of the interpreter, each in a process of its own, and what it gains."""

import platform
import subprocess
import sys

import pytest
from test_processes import ROOT

from utils import keep_freed_memory

FAULTS = """
import resource, sys
from utils import keep_freed_memory
if sys.argv[1] == "kept":
    assert keep_freed_memory()
bytearray(64 << 20)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    bytearray(64 << 20)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
DESTROYED = """
import sys
from utils import never_destroy

class Loud:
    def __del__(self):
        print("destroyed")

value = Loud()
if sys.argv[1] == "kept":
    never_destroy(value)
"""


def printed(program: str, argument: str) -> str:
    done = subprocess.run([sys.executable, "-c", program, argument], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_large_memory_is_used_again_without_page_faults():
    # Pages may be large: a block of 64 MB has 32 of them at the least.
    assert int(printed(FAULTS, "kept")) < 32
    assert int(printed(FAULTS, "default")) >= 20 * 32


def test_freed_memory_is_kept_by_glibc_alone(monkeypatch):
    monkeypatch.setattr("platform.libc_ver", lambda: ("", ""))
    assert not keep_freed_memory()


def test_an_object_outlives_the_interpreter():
    assert printed(DESTROYED, "kept") == ""
    assert printed(DESTROYED, "default") == "destroyed"
