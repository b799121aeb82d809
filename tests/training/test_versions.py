"""What a record says of the code that a run is of."""

import subprocess

from training.versions import _code


def test_the_code_is_a_commit_and_its_changes(tmp_path):
    """Other changes are other code; a folder that only lies in somebody's checkout is not theirs."""

    def git(*command: str) -> None:
        identity = ("-c", "user.name=a", "-c", "user.email=a@b.c")
        subprocess.run(["git", "-C", str(tmp_path), *identity, *command], check=True, capture_output=True)

    assert _code(tmp_path) is None
    git("init")
    (tmp_path / "a.py").write_text("1\n")
    (tmp_path / "page.md").write_text("text\n")
    git("add", ".")
    git("commit", "-m", "first")
    commit = _code(tmp_path)
    assert len(commit) == 12
    git("tag", "-a", "v1", "-m", "a name")
    assert _code(tmp_path) == commit
    (tmp_path / "page.md").write_text("other text\n")
    assert _code(tmp_path) == commit
    found = []
    for change in ("2\n", "3\n", "2\n"):
        (tmp_path / "a.py").write_text(change)
        found.append(_code(tmp_path))
    assert found[0].startswith(f"{commit}-dirty-")
    assert found[0] == found[2] != found[1]
    (tmp_path / "below").mkdir()
    assert _code(tmp_path / "below") is None
