"""Imports between the parts of the package point one way."""

from __future__ import annotations

import ast
from pathlib import Path

import celery_perpetual

PACKAGE = Path(celery_perpetual.__path__[0])
NAME = "celery_perpetual"

# Each may import itself, those of its own line and those above.
LAYERS = (
    ("call_apart", "errors", "hints", "json_fields", "thresholds", "settings", "times", "wording"),
    ("event_kind", "events", "telemetry", "faults", "failures"),
    ("store",),
    ("tasks",),
    ("pauses",),
    ("ledger",),
    ("broker",),
    ("publishing",),
    ("polling",),
    ("completions",),
    ("leases",),
    ("recovery",),
    ("worker",),
    ("waiting",),
    ("namespace",),
    ("routines",),
    ("starvation",),
    ("health",),
    ("beat",),
    ("seams",),
    ("operations",),
    ("wiring",),
    ("app",),
    ("autowire", "cli", "contrib", "testing"),
)
RANK = {part: rank for rank, layer in enumerate(LAYERS) for part in layer}
TOP = len(LAYERS) - 1


def imported_modules(tree: ast.AST, module: str, *, is_package: bool) -> set[str]:
    """Name every module that a file imports, wherever in the file, types included."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = module.split(".")
                kept = parts[: len(parts) - node.level + is_package]
                base = ".".join([*kept, base] if base else kept)
            # `from package import part` names a part only where nothing else says which.
            names |= {f"{base}.{alias.name}" for alias in node.names} if base == NAME else {base}
    return names


def parts_imported(file: Path) -> tuple[str, set[str]]:
    """Return the part of the package that a file belongs to, and the parts that it imports."""
    inside = file.relative_to(PACKAGE).with_suffix("").parts
    is_package = inside[-1] == "__init__"
    module = ".".join([NAME, *(inside[:-1] if is_package else inside)])
    tree = ast.parse(file.read_text())
    imported = imported_modules(tree, module, is_package=is_package)
    ours = {name.split(".")[1] if "." in name else "" for name in imported if (name + ".").startswith(NAME + ".")}
    return (module.split(".")[1] if "." in module else ""), ours


def allowed(part: str, imported: str) -> bool:
    """Whether `part` may import `imported`; an unknown name stands for the package as a whole."""
    if part not in RANK and part != "embedded":
        # The package's own __init__, or one without a place, which is a failure of its own.
        return True
    if part == "embedded":
        return imported in {"embedded", "errors"}
    if imported == "embedded" or imported not in RANK:
        return RANK[part] == TOP
    return RANK[imported] <= RANK[part]


def test_every_part_has_its_place() -> None:
    """A new file or folder of the package must be put into the order above."""
    parts = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or any(path.glob("**/*.py"))}

    assert parts - set(RANK) - {"embedded", "__init__", "__main__"} == set()


def test_imports_point_one_way() -> None:
    """No file imports a part that comes after its own, not even for types."""
    wrong = [
        f"{file.relative_to(PACKAGE)} imports {imported or NAME}"
        for file in sorted(PACKAGE.rglob("*.py"))
        for part, parts in [parts_imported(file)]
        for imported in sorted(parts)
        if not allowed(part, imported)
    ]

    assert wrong == []


def test_relative_and_hidden_imports_count() -> None:
    """The reader of imports sees relative ones, those in functions and those for types."""
    source = """
from __future__ import annotations
from typing import TYPE_CHECKING
from .scripts import run
from ..tasks.contract import task
if TYPE_CHECKING:
    from celery_perpetual.beat import scheduler
def late():
    import celery_perpetual.cli.verbs
    from celery_perpetual import Perpetual
"""

    found = imported_modules(ast.parse(source), "celery_perpetual.store.keys", is_package=False)

    assert {name for name in found if name.startswith(NAME)} == {
        "celery_perpetual.store.scripts",
        "celery_perpetual.tasks.contract",
        "celery_perpetual.beat",
        "celery_perpetual.cli.verbs",
        "celery_perpetual.Perpetual",
    }
