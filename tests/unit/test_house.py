"""Rules of the house that no tool checks: file sizes, machine paths, first words, headers of Lua scripts."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import celery_perpetual
from celery_perpetual.store.header import Header

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

#: Texts that begin so say of which thing they speak only at their end, if at all.
NO_SUBJECT = re.compile(
    r'(?:"""|^\s*#:? |^\s*-- ?)(What|Whatever|Who|Whoever|Nobody|Everybody)\b(?! if\b)', re.MULTILINE
)

INCLUDE = re.compile(r"^ *-- include (\w+)$", re.MULTILINE)
#: The body may reach for what is sent only behind the named arguments.
BEHIND = re.compile(r"#ARGV\b|\bunpack\(ARGV\b|\bARGV\[(?!\d)")
KINDS = {"string", "hash", "list", "set", "zset", "stream", "channel"}
TYPES = {"text", "JSON", "int", "ms", "flag", "mixed"}


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
    """Compare the slots that a script's header declares with what its body uses."""
    header = Header.of(text)
    keys, args = {**header.keys, **header.more_keys}, {**header.args, **header.more_args}
    body = [line for line in text.splitlines() if not line.lstrip().startswith("--")]
    words = set(re.findall(r"(?<![\w.'])[a-z_]\w*", "\n".join(body)))
    problems = [f"KEYS is used, and not the names of keys: {line.strip()}" for line in body if "KEYS" in line]
    for line in body:
        behind = BEHIND.search(line)
        if "ARGV" in line and not (behind and header.more_args):
            problems.append(f"ARGV is used, and not the names of arguments: {line.strip()}")
        if found := re.match(r"local ([\w, ]+?) =", line):
            again = (keys.keys() | args.keys()) & set(found[1].split(", "))
            problems += [f"{name} is declared again: {line.strip()}" for name in sorted(again)]
    used = {**header.keys, **header.args, **header.more_keys, **{f"{name}_at": "" for name in header.more_args}}
    problems += [f"{name} is declared and not used" for name in used if name not in words]
    problems += [f"{name} is a {kind}" for name, kind in keys.items() if kind.removesuffix("*") not in KINDS]
    problems += [f"{name} is a {kind}" for name, kind in args.items() if kind not in TYPES]
    problems += [f"{name} is declared twice" for name in sorted(keys.keys() & args.keys())]
    return problems


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


def test_docstrings_and_comments_begin_with_their_subject() -> None:
    """A docstring or comment of the package, its tests, benchmarks and examples begins with a noun or a verb."""
    found = [
        f"{file.relative_to(ROOT)}: {text[match.start() : match.start() + 80].strip()}"
        for file in project_files()
        if file.suffix in {".py", ".lua"}
        for text in [file.read_text()]
        for match in NO_SUBJECT.finditer(text)
    ]

    assert found == []


def test_lua_headers_tell_the_truth() -> None:
    """Every script uses each slot that its header declares, and nothing else of what it is sent."""
    scripts = whole_scripts()

    problems = {name: found for name, text in scripts.items() if (found := header_problems(text))}

    assert scripts
    assert problems == {}
    assert all(Header.of(text).keys or Header.of(text).more_keys for text in scripts.values())


def test_a_wrong_lua_header_is_seen() -> None:
    """The comparison finds each kind of disagreement."""
    script = """
-- KEY   leases  zset    id -> deadline
-- KEY   unused  hash
-- KEY   broken  bitmap  is no type
-- ARG   limit   int     most items
-- ARG   forgot  int     nothing
-- ARG   broken  text    a second time
-- KEYS  more    list    nothing
-- a comment may say ARGV[9]
local limit, ttl = 7, ARGV[3]
redis.call('DEL', KEYS[2], 'unused', broken)
redis.call('DEL', leases, unpack(ARGV, 4))
""".lstrip()

    assert header_problems(script) == [
        "KEYS is used, and not the names of keys: redis.call('DEL', KEYS[2], 'unused', broken)",
        "ARGV is used, and not the names of arguments: local limit, ttl = 7, ARGV[3]",
        "limit is declared again: local limit, ttl = 7, ARGV[3]",
        "ARGV is used, and not the names of arguments: redis.call('DEL', leases, unpack(ARGV, 4))",
        "unused is declared and not used",
        "forgot is declared and not used",
        "more is declared and not used",
        "broken is a bitmap",
        "broken is declared twice",
    ]


def test_a_slot_behind_the_named_ones_must_be_reached_by_where_it_begins() -> None:
    """Arguments that are declared as ``ARGS`` may be used by position, counted from their beginning, and not by number."""
    header = "-- KEY   leases  zset  id -> deadline\n-- ARGS  ids  text  task ids\n"

    assert header_problems(header + "redis.call('ZREM', leases, unpack(ARGV, ids_at))\n") == []
    assert header_problems(header + "redis.call('ZREM', leases, ARGV[1])\n") == [
        "ARGV is used, and not the names of arguments: redis.call('ZREM', leases, ARGV[1])",
        "ids_at is declared and not used",
    ]
