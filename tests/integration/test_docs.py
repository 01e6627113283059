"""The code of the documentation: every block can be compiled, and the page about tests is run as it stands."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])


def blocks(page: Path) -> list[str]:
    """The blocks of Python code of a page."""
    found = re.findall(r"^( *)```python\n(.*?)^\1```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    return [textwrap.dedent(code) for _, code in found]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_block_compiles(page: Path) -> None:
    """A coroutine may be awaited at the top, as in a notebook."""
    for code in blocks(page):
        compile(code, page.name, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


def test_the_page_about_tests_runs_as_it_stands(tmp_path: Path) -> None:
    """Its files, by the names in their first lines, pass under pytest."""
    for code in blocks(ROOT / "docs" / "testing.md"):
        name = re.match(r"# (\w+\.py)\n", code)
        assert name
        (tmp_path / name[1]).write_text(code, encoding="utf-8")

    argv = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_shop.py"]
    done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=90)

    assert "4 passed" in done.stdout, done.stdout + done.stderr
