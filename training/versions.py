"""The versions of the code and the libraries of a run."""

import hashlib
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("torch", "transformers", "accelerate", "tokenizers", "numpy", "scipy", "scikit-learn", "seqeval")


def versions() -> dict[str, str | None]:
    """Package name -> version, and `code`: this project's commit and a hash of local changes; None if unknown."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found | {"code": _code(Path(__file__).parent.parent)}


def _code(root: Path) -> str | None:
    """The commit of a checkout, followed by `-dirty-HASH` if files differ; None if the folder is not a checkout."""

    def git(*command: str) -> str:
        return subprocess.run(
            ["git", "-C", str(root), *command], capture_output=True, text=True, timeout=60, check=True
        ).stdout

    try:
        if Path(git("rev-parse", "--show-toplevel").strip()) != root.resolve():  # installed inside another checkout
            return None
        commit = git("rev-parse", "--short=12", "HEAD").strip()
        changes = git("diff", "HEAD", "--", "*.py")
    except (OSError, subprocess.SubprocessError):
        return None
    return f"{commit}-dirty-{hashlib.sha256(changes.encode()).hexdigest()[:8]}" if changes else commit
