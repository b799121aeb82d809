"""What the documentation says and a program can check."""

import re
from pathlib import Path

import pytest

from models.encoder_types import ENCODER_TYPES, REFUSED_TYPES

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("*/README.md")])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_to_a_file_and_to_one_heading_of_it(page):
    wrong = []
    for link, anchor in re.findall(r"\]\(([^)#\s]*)#?([^)]*)\)", page.read_text(encoding="utf-8")):
        if link.startswith(("http:", "https:")):
            continue
        target = page.parent / link if link else page
        if not target.exists() or (anchor and headings(target).count(anchor) != 1):
            wrong.append(f"{link}#{anchor}")
    assert wrong == []


def headings(page: Path) -> list[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return [re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles]


def test_the_readme_is_a_front_door():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.split()) <= 1200
    assert len(text.splitlines()) <= 150


def test_the_page_of_encoders_is_the_table():
    rows = re.findall(r"^\| ([\w-]+) \|", (ROOT / "docs" / "encoders.md").read_text(encoding="utf-8"), re.M)
    assert [row for row in rows if row not in ("type", "---")] == [*ENCODER_TYPES, *REFUSED_TYPES]
