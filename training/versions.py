"""Which code and which libraries a run is of."""

import hashlib
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("torch", "transformers", "accelerate", "tokenizers", "numpy", "scipy", "scikit-learn", "seqeval")


def versions() -> dict[str, str | None]:
    """Package name -> version, and `code`: the commit of this project and a hash of changes; None if not known."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found | {"code": _code(Path(__file__).parent.parent)}


def _code(root: Path) -> str | None:
    """The commit of a checkout, `-dirty-HASH` after it where files differ; None where the folder is no checkout."""

    def git(*command: str) -> str:
        return subprocess.run(
            ["git", "-C", str(root), *command], capture_output=True, text=True, timeout=10, check=True
        ).stdout

    try:
        if Path(git("rev-parse", "--show-toplevel").strip()) != root.resolve():  # installed somewhere in a checkout
            return None
        commit = git("describe", "--always", "--abbrev=12").strip()
        changes = git("diff", "HEAD", "--", "*.py")
    except (OSError, subprocess.SubprocessError):
        return None
    return f"{commit}-dirty-{hashlib.sha256(changes.encode()).hexdigest()[:8]}" if changes else commit
