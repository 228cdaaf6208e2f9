"""The page about all messages, for people."""

import json
import re
from typing import Any

from cnm.errors import BY_CODE
from cnm.messages import COMMANDS, EVENTS, OBJECTS, UNPUBLISHED
from cnm.reference import (
    HEADERS,
    REPLY_HEADERS,
    Codes,
    Kind,
    Schema,
    between_workers,
    components,
    every_command,
    summary,
)

WIDTH = 116
"""Of a line of JSON."""


def subjects_page(codes: Codes, examples: Schema) -> str:
    """Return the page for people: what holds for all, each command, the types they speak of, the events."""
    roots, parts = components("#/$defs/{name}")
    names = [root["$ref"].rpartition("/")[2] for root in roots]
    every = list(every_command())
    named = {command: (names[2 * number], names[2 * number + 1]) for number, (_, command) in enumerate(every)}
    lines = [
        "# Subjects",
        "",
        "Made by `python -m cnm.docs` from the classes in `shared/cnm/messages`; do not edit. The examples are from",
        "a real run; ids, times and MAC addresses in them are made up.",
        "Schemas for programs: [asyncapi.json](asyncapi.json), and one file a subject under [schemas](schemas).",
        "How to use all this from a program: [clients.md](clients.md).",
        "",
        *_index(every),
        *_headers_section(),
        *_errors_section(examples["refusals"]),
    ]
    for service, commands in COMMANDS.items():
        asked = [command for command in commands if not between_workers(command)]
        lines += [f"## {service}", ""] if asked else []
        for command in asked:
            refused = codes.get(command.__name__, {})
            lines += _section(command, named[command], parts, refused, examples["verbs"].get(command.subject))
    lines += [
        "## Between workers",
        "",
        "Only workers ask these; clients keep off, and are best kept off by NATS.",
        "",
    ]
    for service, command in every:
        if between_workers(command):
            lines += _section(command, named[command], parts, codes.get(command.__name__, {}), None, service)
    lines += ["## Types", ""]
    spoken_of = set(re.findall(r'"#/\$defs/(\w+)"', json.dumps(parts)))
    replies = {reply for _, reply in named.values()}
    for name in sorted(spoken_of | replies | set(names[2 * len(every) :])):
        lines += [f"### {name}", "", *_prose(parts[name].get("description", "")), *_table(parts[name]), ""]
    lines += _events_section(examples["events"])
    return "\n".join(lines).rstrip() + "\n"


def _index(every: list[tuple[str, Kind]]) -> list[str]:
    rows = [
        f"| [{command.subject}](#{_anchor(command.subject)}) | {summary(command)} |".replace("``", "`")
        for _, command in every
        if not between_workers(command)
    ]
    return ["| subject | |", "|---|---|", *rows, "", "What happened: [events](#events).", ""]


def _anchor(heading: str) -> str:
    """Return the link to a heading as GitHub makes it."""
    return re.sub(r"[^a-z0-9_ -]", "", heading.lower()).replace(" ", "-")


def _headers_section() -> list[str]:
    rows = [f"| `{name}` | request | {text} |" for name, text in HEADERS.items()]
    rows += [f"| `{name}` | reply | {text} |" for name, text in REPLY_HEADERS.items()]
    return ["## Headers", "", "| header | of | |", "|---|---|---|", *rows, ""]


def _errors_section(refusals: Schema) -> list[str]:
    rows = [f"| `{code}` | {kind.status} | {summary(kind)} |".replace("``", "`") for code, kind in BY_CODE.items()]
    lines = ["## Errors", "", "| code | header | |", "|---|---|---|", *rows, ""]
    lines += [
        "Any request can be refused as `invalid` (a body or header that is malformed, a key that is the beginning",
        "of several ids), `conflict` (a request id that came with another body), `unavailable`, `timeout` or",
        "`internal`; what a verb is refused with besides stands below it.",
        "",
    ]
    for code in ("conflict", "invalid"):
        shown = refusals[code]
        headers = "\n".join(f"{name}: {value}" for name, value in shown["headers"].items())
        lines += [f"`{shown['subject']}` of", "", *_json(shown["request"]), "", "is refused with", ""]
        lines += ["```", headers, "```", "", *_json(shown["reply"]), ""]
    return lines


def _events_section(examples: Schema) -> list[str]:
    lines = [
        "## Events",
        "",
        "Stream `CNM_EVENTS`; the body of each is an [Event](#event). `<id>` is the id of the object that it tells",
        "of: for a port the sandbox's, for an address the pool's, for drift the object's or the node's.",
        "",
        "| subject | object |",
        "|---|---|",
    ]
    for noun, participles in EVENTS.items():
        name = OBJECTS[noun].__name__ if noun in OBJECTS else ""
        link = f"[{name}](#{_anchor(name)})" if name else ""
        for participle in participles:
            there = link if f"{noun}.{participle}" not in UNPUBLISHED else "not published yet"
            lines.append(f"| `cnm.v1.event.{noun}.{participle}.<id>` | {there} |")
    return [*lines, "", "`cnm.v1.event.port.published.<id>`:", "", *_json(examples["port.published"]), ""]


def _section(
    command: Kind,
    named: tuple[str, str],
    parts: dict[str, Schema],
    codes: dict[str, str],
    example: Schema | None,
    service: str | None = None,
) -> list[str]:
    subject = command.subject.replace("{node}", "<node>")
    request, reply = named
    by = f"`{service}` replies" if service else "Replies"
    refused = [f"- `{code}`: {text}" for code, text in codes.items()]
    return [
        f"### {subject}",
        "",
        *_prose(command.__doc__ or ""),
        *_table(parts[request]),
        "",
        *([*_json(example["request"]), ""] if example else []),
        f"{by} [{reply}](#{_anchor(reply)})" + (":" if example else "."),
        *(["", *_json(example["reply"])] if example else []),
        *(["", "Refused with", "", *refused] if refused else []),
        "",
    ]


def _json(value: Any) -> list[str]:
    return ["```json", *_folded(value, "").splitlines(), "```"]


def _folded(value: Any, indent: str) -> str:
    """Write JSON with each part on one line that fits there."""
    flat = json.dumps(value, ensure_ascii=False)
    if len(indent) + len(flat) <= WIDTH or not isinstance(value, (dict, list)) or not value:
        return flat
    inner = indent + "  "
    if isinstance(value, dict):
        parts = [f"{inner}{json.dumps(name)}: {_folded(each, inner)}" for name, each in value.items()]
        return "{\n" + ",\n".join(_filled(parts)) + f"\n{indent}}}"
    parts = [f"{inner}{_folded(each, inner)}" for each in value]
    return "[\n" + ",\n".join(_filled(parts)) + f"\n{indent}]"


def _filled(parts: list[str]) -> list[str]:
    """Put short neighbours on one line."""
    lines = parts[:1]
    for part in parts[1:]:
        if "\n" not in lines[-1] + part and len(lines[-1]) + 2 + len(part.strip()) < WIDTH:
            lines[-1] += f", {part.strip()}"
        else:
            lines.append(part)
    return lines


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
        return f"[{name}](#{_anchor(name)})"
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
