"""Rules of the house that no tool checks: file sizes, machine paths, headers of Lua scripts."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import celery_perpetual

ROOT = Path(__file__).parents[2]
PACKAGE = Path(celery_perpetual.__path__[0])
MOST_LINES = 300

# Put together from pieces, as this file is searched too.
PRIVATE = [
    re.compile(pattern)
    for pattern in (
        r"(?<![\w.])/" + r"(work|farm|root)/",
        r"/tmp/" + r"venv",
        r"\.\./" + r"shared",
        r"(?i)design " + r"page",
    )
]

SLOT = re.compile(r"-- (?P<kind>KEYS|ARGV)\[(?P<number>\d+)(?P<tail>\.\.)?\]\s+(?P<name>\w+)")
LITERAL = re.compile(r"\b(KEYS|ARGV)\[(\d+)\]")
COMPUTED = re.compile(r"#(?P<length>KEYS|ARGV)\b|\bunpack\((?P<unpacked>KEYS|ARGV)\b|\b(?P<index>KEYS|ARGV)\[(?!\d+\])")
INCLUDE = re.compile(r"^ *-- include (\w+)$", re.MULTILINE)
BINDING = re.compile(r"^\s*local (?P<names>[\w, ]+?) = (?P<values>.+)$")


def project_files() -> list[Path]:
    """Return what belongs to the project: committed or about to be."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return [file for name in listed.stdout.split("\0") if name and (file := ROOT / name).is_file()]


def whole_scripts() -> dict[str, str]:
    """Return name and text of every script that is called, with its includes pasted in."""
    files = {file.stem: file.read_text() for file in PACKAGE.rglob("*.lua")}
    included = {name for text in files.values() for name in INCLUDE.findall(text)}

    def pasted(name: str) -> str:
        return INCLUDE.sub(lambda found: pasted(found[1]), files[name])

    return {name: pasted(name) for name in sorted(files.keys() - included)}


def header_problems(text: str) -> list[str]:
    """Compare the slots that a script's header names with those that its body uses."""
    slots = [SLOT.match(line) for line in text.splitlines()]
    header = {(s["kind"], s["number"]): s["name"] for s in slots if s and not s["tail"]}
    tails = {s["kind"] for s in slots if s and s["tail"]}
    body = [line for line in text.splitlines() if not line.lstrip().startswith("--")]
    bound: dict[tuple[str, str], str] = {}
    problems = []
    for line in body:
        here = _bindings(line)
        problems += [
            f"{kind}[{number}] is not bound to a local of its own: {line.strip()}"
            for kind, number in LITERAL.findall(line)
            if (kind, number) not in here
        ]
        bound.update(here)
        problems += [
            f"{kind} is used beyond its names, but the header has no tail {kind}[n..]: {line.strip()}"
            for found in COMPUTED.finditer(line)
            if (kind := found["length"] or found["unpacked"] or found["index"]) not in tails
        ]
    problems += [
        f"{kind}[{number}] is {header.get((kind, number))} in the header and {bound.get((kind, number))} in the body"
        for kind, number in sorted(header.keys() | bound.keys())
        if header.get((kind, number)) != bound.get((kind, number))
    ]
    return problems


def _bindings(line: str) -> dict[tuple[str, str], str]:
    """Read ``local a, b = KEYS[1], tonumber(ARGV[2])`` as what is called what."""
    found = BINDING.match(line)
    if not found:
        return {}
    names = [name.strip() for name in found["names"].split(",")]
    # Commas inside of calls separate nothing here.
    values = re.split(r",(?![^(]*\))", found["values"])
    return {slot: name for name, value in zip(names, values, strict=False) for slot in LITERAL.findall(value)}


def test_files_of_the_package_stay_small() -> None:
    """No file of the package has more than 300 lines."""
    sizes = {
        str(file.relative_to(PACKAGE)): len(file.read_text().splitlines())
        for file in PACKAGE.rglob("*")
        if file.suffix in {".py", ".lua"}
    }

    assert {file: lines for file, lines in sizes.items() if lines > MOST_LINES} == {}


def test_nothing_names_the_machine_it_was_written_on() -> None:
    """No file of the project names a path that only its author has."""
    found = []
    for file in project_files():
        try:
            text = file.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        found += [
            f"{file.relative_to(ROOT)}:{number}: {line.strip()[:100]}"
            for number, line in enumerate(text.splitlines(), 1)
            if any(pattern.search(line) for pattern in PRIVATE)
        ]

    assert found == []


def test_lua_headers_tell_the_truth() -> None:
    """Every script's header names each slot as the body does, and names no other."""
    scripts = whole_scripts()

    problems = {name: found for name, text in scripts.items() if (found := header_problems(text))}

    assert scripts
    assert problems == {}


def test_a_wrong_lua_header_is_seen() -> None:
    """The comparison finds each kind of disagreement."""
    script = """
-- KEYS[1] leases  zset  id -> deadline
-- ARGV[1] limit   int   most items
-- ARGV[2] unused  int   nothing
-- a comment may say ARGV[9]
local held = KEYS[1]
local limit, ttl = tonumber(ARGV[1]), ARGV[3]
redis.call('DEL', KEYS[2])
redis.call('DEL', unpack(ARGV, 4))
"""

    assert header_problems(script) == [
        "KEYS[2] is not bound to a local of its own: redis.call('DEL', KEYS[2])",
        "ARGV is used beyond its names, but the header has no tail ARGV[n..]: redis.call('DEL', unpack(ARGV, 4))",
        "ARGV[2] is unused in the header and None in the body",
        "ARGV[3] is None in the header and ttl in the body",
        "KEYS[1] is leases in the header and held in the body",
    ]
