"""What the documents point at is in the repository, and the generated page is what the code says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
FOLDERS = (
    "protocol|serving|specs|models|predictors|transformers|warmup|local|inferenceservices|tests|benchmarks|scripts|docs"
)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_path_and_link_of_a_page_is_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    paths = {ROOT / path for path in re.findall(rf"`((?:{FOLDERS})/[\w./-]+)`", text)}
    paths.discard(ROOT / "benchmarks/out")  # made by the benchmarks
    links = {page.parent / link for link in re.findall(r"\]\((?!https?:|#)([^)#]+)", text)}
    assert [str(path) for path in sorted(paths | links) if not path.exists()] == []


def test_the_reference_is_what_the_code_says() -> None:
    made = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "make_reference.py"), "--check"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert made.returncode == 0, f"run `make reference`\n{made.stderr}"
