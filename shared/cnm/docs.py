"""Write the documentation of messages and metrics from their declarations: ``python -m cnm.docs``.

Into ``docs``: ``subjects.md`` and ``metrics.md`` for people, ``asyncapi.json`` for tools, and
``schemas/<subject>.json`` with what a command takes and replies. The examples in them come from ``examples.json``,
which ``make reference`` writes from a run of a real installation. A schema that would lose, rename or retype a field
is not written unless ``--breaking`` says that this is meant. ``--check`` writes nothing, and exits 1 when something
is out of date.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cnm.asyncapi import asyncapi
from cnm.messages.message import schema
from cnm.metrics_page import metrics_page
from cnm.reference import EXAMPLES, ROOT, Kind, Schema, every_command, raised_codes
from cnm.subjects_page import subjects_page


def generate(services: Path = ROOT / "services") -> dict[str, str]:
    """Return what each file under ``docs`` should hold."""
    codes, examples = raised_codes(services), json.loads(EXAMPLES.read_text())
    files = {
        "subjects.md": subjects_page(codes, examples),
        "metrics.md": metrics_page(),
        "asyncapi.json": _text(asyncapi(codes, examples)),
    }
    for _, command in every_command():
        files[schema_file(command)] = _text(schemas_of(command))
    return files


def schema_file(command: Kind) -> str:
    """Return the name of the file that holds a command's schemas."""
    return f"schemas/{command.subject.replace('{node}', 'NODE')}.json"


def schemas_of(command: Kind) -> Schema:
    """Return the schemas of a command and its reply."""
    return {"subject": command.subject, "request": schema(command), "reply": schema(command.reply_type())}


def _text(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def broken(old: Schema, new: Schema) -> list[str]:
    """Return what programs written against the old schemas of a subject would stumble over in the new ones."""
    found: list[str] = []
    for side in ("request", "reply"):
        _compare(old[side], new[side], (old[side], new[side]), side, side == "request", set(), found)
    return found


def _compare(
    old: Schema, new: Schema, roots: tuple[Schema, Schema], path: str, asked: bool, seen: set[Any], found: list[str]
) -> None:
    pair = (old.get("$ref"), new.get("$ref"))
    if pair in seen:
        return
    if all(pair):
        seen.add(pair)
    old, new = _resolved(old, roots[0]), _resolved(new, roots[1])
    if _kinds(old, roots[0]) != _kinds(new, roots[1]):
        found.append(f"{path}: {_kinds(old, roots[0])} became {_kinds(new, roots[1])}")
        return
    properties = new.get("properties", {})
    for name, part in old.get("properties", {}).items():
        if name not in properties:
            found.append(f"{path}.{name}: was removed")
        else:
            _compare(part, properties[name], roots, f"{path}.{name}", asked, seen, found)
    stricter = set(new.get("required", [])) - set(old.get("required", []))
    weaker = set(old.get("required", [])) - set(new.get("required", []))
    found += [
        f"{path}.{name}: became {'required' if asked else 'optional'}"
        for name in sorted(stricter if asked else weaker)
    ]
    for word in ("items", "additionalProperties"):
        if isinstance(old.get(word), dict) and isinstance(new.get(word), dict):
            _compare(old[word], new[word], roots, f"{path}[]", asked, seen, found)
    for before, after in zip(_members(old, roots[0]), _members(new, roots[1]), strict=False):
        _compare(before, after, roots, path, asked, seen, found)


def _resolved(part: Schema, root: Schema) -> Schema:
    while "$ref" in part:
        part = root["$defs"][part["$ref"].rpartition("/")[2]]
    return part


def _members(part: Schema, root: Schema) -> list[Schema]:
    members = [_resolved(each, root) for each in part.get("anyOf", [])]
    return sorted(
        (each for each in members if each.get("type") in ("object", "array")), key=lambda each: each["type"]
    )


def _kinds(part: Schema, root: Schema) -> list[str]:
    """Return the types of JSON that a part may be, with formats and choices."""
    if "anyOf" in part:
        return sorted(kind for each in part["anyOf"] for kind in _kinds(_resolved(each, root), root))
    if "enum" in part:
        return sorted(f"={each}" for each in part["enum"])
    kind, form = part.get("type", "any"), part.get("format")
    return [f"{kind}:{form}" if form else str(kind)]


def stale(docs: Path) -> list[str]:
    """Return the files that differ from what they should hold, and those that should not be there."""
    files = generate()
    differing = [
        name for name, text in files.items() if not (docs / name).exists() or (docs / name).read_text() != text
    ]
    known = {docs / name for name in files}
    return differing + [f"schemas/{path.name}" for path in docs.glob("schemas/*.json") if path not in known]


def breaches(docs: Path) -> list[str]:
    """Return how the classes break the schemas that are written down."""
    found = []
    for _, command in every_command():
        path = docs / schema_file(command)
        if path.exists():
            lines = broken(json.loads(path.read_text()), schemas_of(command))
            found += [f"{command.subject}: {line}" for line in lines]
    known = {docs / schema_file(command) for _, command in every_command()}
    found += [f"{path.stem}: was removed" for path in docs.glob("schemas/*.json") if path not in known]
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Write or check the files; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m cnm.docs", description="Write the documentation of the messages."
    )
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when something is out of date")
    parser.add_argument("--breaking", action="store_true", help="write schemas that break those written down, too")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs", help="the folder to write to")
    options = parser.parse_args(arguments)
    if options.check:
        outdated = stale(options.docs)
        for name in outdated:
            sys.stderr.write(f"docs/{name} is out of date; run make docs\n")
        return 1 if outdated else 0
    if (found := breaches(options.docs)) and not options.breaking:
        for line in found:
            sys.stderr.write(f"{line}\n")
        sys.stderr.write("this breaks programs of others; --breaking writes it all the same\n")
        return 1
    for name in stale(options.docs):
        (options.docs / name).unlink(missing_ok=True)
    for name, text in generate().items():
        path = options.docs / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
