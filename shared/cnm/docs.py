"""Write the documentation of messages and metrics from their declarations: ``python -m cnm.docs``.

Into ``docs``: ``subjects.md`` and ``metrics.md`` for people, ``asyncapi.json`` for tools, and
``schemas/<subject>.json`` with what a command takes and replies. A schema that would lose, rename or retype a field
is not written unless ``--breaking`` says that this is meant. ``--check`` writes nothing, and exits 1 when something
is out of date.
"""

import argparse
import ast
import json
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from cnm.errors import BY_CODE, ErrorReply
from cnm.messages import COMMANDS, EVENTS
from cnm.messages.message import Command, Event, schema, unindented
from cnm.metrics_page import metrics_page
from cnm.types import SCHEMA_FORMATS
from cnm.version import VERSION

ROOT = Path(__file__).parents[2]
CODES = {kind.__name__: code for code, kind in BY_CODE.items()}
HEADERS = {
    "traceparent": "W3C trace context; the work done joins that trace",
    "tracestate": "W3C trace context",
    "baggage": "W3C baggage",
    "Cnm-Request-Id": "idempotency key: a repeat within 10 minutes gets the first reply again",
    "Cnm-Deadline-Ms": "how long the caller will wait, in milliseconds; default 10000",
}
REPLY_HEADERS = {
    "Nats-Service-Error-Code": "absent when it worked",
    "Nats-Service-Error": "one sentence for a person",
}
Schema = dict[str, Any]
Kind = type[Command[Any]]


def every_command() -> Iterator[tuple[str, Kind]]:
    """Yield each command with the service that answers it."""
    for service, commands in COMMANDS.items():
        for command in commands:
            yield service, command


def generate(services: Path = ROOT / "services") -> dict[str, str]:
    """Return what each file under ``docs`` should hold."""
    files = {
        "subjects.md": subjects_page(raised_codes(services)),
        "metrics.md": metrics_page(),
        "asyncapi.json": _text(asyncapi()),
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


def _components(template: str) -> tuple[list[Schema], dict[str, Schema]]:
    kinds: list[Any] = [kind for _, command in every_command() for kind in (command, command.reply_type())]
    roots, parts = msgspec.json.schema_components(
        [*kinds, Event, ErrorReply], schema_hook=lambda kind: SCHEMA_FORMATS[kind], ref_template=template
    )
    return list(unindented(roots)), dict(unindented(dict(parts)))


def asyncapi() -> Schema:
    """Return the AsyncAPI 3.0 document: a channel and an operation a command, a channel a kind of event."""
    _, parts = _components("#/components/schemas/{name}")
    channels: Schema = {}
    operations: Schema = {}
    messages: Schema = {
        "ErrorReply": _message("ErrorReply", REPLY_HEADERS),
        "Event": _message("Event", {"Nats-Msg-Id": "the event's id, by which the stream knows duplicates"}),
    }
    for service, command in every_command():
        request, reply = command.__name__, command.reply_type().__name__
        key = command.subject.removeprefix("cnm.v1.").replace("{node}.", "")
        messages[request] = _message(request, HEADERS)
        messages[reply] = _message(reply, {})
        answers = {name: {"$ref": f"#/components/messages/{name}"} for name in (reply, "ErrorReply")}
        channels[key] = {
            "address": command.subject,
            "messages": {request: {"$ref": f"#/components/messages/{request}"}},
            **({"parameters": {"node": {"description": "the node's name"}}} if "{node}" in command.subject else {}),
        }
        channels[f"{key}.reply"] = {"address": None, "messages": answers}
        operations[key] = {
            "action": "receive",
            "summary": summary(command),
            "tags": [{"name": service}],
            "channel": {"$ref": f"#/channels/{key}"},
            "messages": [{"$ref": f"#/channels/{key}/messages/{request}"}],
            "reply": {
                "address": {"location": "$message.header#/reply"},
                "channel": {"$ref": f"#/channels/{key}.reply"},
                "messages": [{"$ref": f"#/channels/{key}.reply/messages/{name}"} for name in answers],
            },
        }
    for noun, participles in EVENTS.items():
        for participle in participles:
            key = f"event.{noun}.{participle}"
            channels[key] = {
                "address": f"cnm.v1.{key}.{{id}}",
                "messages": {"Event": {"$ref": "#/components/messages/Event"}},
                "parameters": {"id": {"description": "the id of the object that the event tells of"}},
            }
            operations[key] = {"action": "send", "channel": {"$ref": f"#/channels/{key}"}}
    return {
        "asyncapi": "3.0.0",
        "info": {"title": "CNM", "version": VERSION, "description": "The Container Network Model over NATS."},
        "defaultContentType": "application/json",
        "channels": channels,
        "operations": operations,
        "components": {"messages": messages, "schemas": parts},
    }


def _message(name: str, headers: dict[str, str]) -> Schema:
    found: Schema = {"name": name, "payload": {"$ref": f"#/components/schemas/{name}"}}
    if headers:
        properties = {header: {"type": "string", "description": text} for header, text in headers.items()}
        found["headers"] = {"type": "object", "properties": properties}
    return found


def summary(kind: type) -> str:
    """Return the first line of a docstring."""
    return (kind.__doc__ or "").strip().splitlines()[0]


def raised_codes(services: Path) -> dict[str, dict[str, str]]:
    """Return, of each command, the codes that its handler's docstring says it raises, and when."""
    found: dict[str, dict[str, str]] = {}
    for path in sorted(services.glob("*/cnm_*/*handlers.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.AsyncFunctionDef) and (command := _commanded(node)):
                found[command] = _raises(ast.get_docstring(node) or "")
    return found


def _commanded(function: ast.AsyncFunctionDef) -> str | None:
    for argument in function.args.args:
        if argument.arg == "command" and argument.annotation is not None:
            return ast.unparse(argument.annotation).rpartition(".")[2]
    return None


def _raises(docstring: str) -> dict[str, str]:
    section = re.search(r"^Raises:\n((?:    .*\n?)+)", docstring, flags=re.MULTILINE)
    entries = re.findall(r"^    ([\w, ]+): (.*(?:\n      .*)*)", section[1], flags=re.MULTILINE) if section else []
    return {
        CODES[name]: " ".join(text.split()).replace("``", "`")
        for names, text in entries
        for name in names.split(", ")
        if name in CODES
    }


def subjects_page(codes: dict[str, dict[str, str]]) -> str:
    """Return the page for people: each service's commands, then the types they speak of, then the events."""
    roots, parts = _components("#/$defs/{name}")
    names = [root["$ref"].rpartition("/")[2] for root in roots]
    lines = [
        "# Subjects",
        "",
        "Made by `python -m cnm.docs` from the classes in `shared/cnm/messages`; do not edit.",
        "Schemas for programs: [asyncapi.json](asyncapi.json), and one file a subject under [schemas](schemas).",
        "Headers, error codes and what holds for all of them: see the [README](../README.md).",
        "",
    ]
    place = 0
    for service, commands in COMMANDS.items():
        lines += [f"## {service}", ""]
        for command in commands:
            request, reply = names[place], names[place + 1]
            place += 2
            lines += _section(command, parts[request], reply, codes.get(command.__name__, {}))
    lines += ["## Types", ""]
    spoken_of = set(re.findall(r'"#/\$defs/(\w+)"', json.dumps(parts)))
    for name in sorted(spoken_of | set(names[1:place:2]) | set(names[place:])):
        lines += [f"### {name}", "", *_prose(parts[name].get("description", "")), *_table(parts[name]), ""]
    lines += ["## Events", "", "Stream `CNM_EVENTS`; the body of each is an [Event](#event).", ""]
    lines += [f"- `cnm.v1.event.{noun}.{participle}.<id>`" for noun, found in EVENTS.items() for participle in found]
    return "\n".join(lines) + "\n"


def _section(command: Kind, request: Schema, reply: str, codes: dict[str, str]) -> list[str]:
    subject = command.subject.replace("{node}", "<node>")
    refused = [f"- `{code}`: {text}" for code, text in codes.items()]
    return [
        f"### {subject}",
        "",
        *_prose(command.__doc__ or ""),
        *_table(request),
        "",
        f"Replies [{reply}](#{reply.lower()}).",
        *(["", *refused] if refused else []),
        "",
    ]


def _prose(docstring: str) -> list[str]:
    text = "\n".join(line.strip() for line in docstring.strip().splitlines())
    return [text.replace("``", "`"), ""] if text else []


def _table(part: Schema) -> list[str]:
    properties: Schema = part.get("properties", {})
    if not properties:
        return ["No fields."]
    required = part.get("required", [])
    rows = [
        f"| `{name}` | {_type_text(each)} | {_default_text(each, required=name in required)} |"
        for name, each in properties.items()
    ]
    return ["| field | type | default |", "|---|---|---|", *rows]


def _default_text(part: Schema, *, required: bool) -> str:
    if "default" in part:
        return f"`{json.dumps(part['default'], ensure_ascii=False)}`"
    return "required" if required else "absent"


def _type_text(part: Schema) -> str:
    if "$ref" in part:
        name = part["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in part:
        return " or ".join(_type_text(each) for each in part["anyOf"])
    if "enum" in part:
        return ", ".join(f"`{json.dumps(each)}`" for each in part["enum"])
    if part.get("type") == "array":
        return f"list of {_type_text(part.get('items', {}))}"
    if part.get("type") == "object":
        inner = part.get("additionalProperties")
        return f"map to {_type_text(inner)}" if isinstance(inner, dict) else "object"
    kind = part.get("description") or part.get("format") or part.get("type") or "anything"
    bounds = [
        f"from {part['minimum']}" if "minimum" in part else "",
        f"to {part['maximum']}" if "maximum" in part else "",
    ]
    return " ".join([str(kind).replace("|", "\\|"), *filter(None, bounds)])


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
