"""What the pages about messages have in common: the commands, their errors, and examples from a real run."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from cnm.errors import BY_CODE, ErrorReply
from cnm.messages import COMMANDS, OBJECTS
from cnm.messages.message import Command, Event, unindented
from cnm.types import SCHEMA_FORMATS

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "docs/examples.json"
CODES = {kind.__name__: code for code, kind in BY_CODE.items()}
HEADERS = {
    "traceparent": "W3C trace context; the work done joins that trace",
    "tracestate": "W3C trace context, passed on unread",
    "baggage": "W3C baggage, passed on unread",
    "Cnm-Request-Id": "idempotency key: a repeat within 10 minutes gets the first reply again, nothing is done twice",
    "Cnm-Deadline-Ms": "how long the caller will wait, in milliseconds; default 10000; work not finished by then is "
    "undone",
}
REPLY_HEADERS = {
    "Nats-Service-Error-Code": "absent when it worked; else the number of the error's code",
    "Nats-Service-Error": "one sentence for a person",
    "Cnm-Trace-Id": "the trace in which it was refused, for `cnm trace`; absent when it was refused unread",
}
INTERNAL = re.compile(
    r"cnm\.v1\.(on\.|node\.(heartbeat|drift|slice\.)|ipam\.(network|endpoint|owner|lease|node|pool\.count))"
)
"""The subjects that workers ask one another on."""
Schema = dict[str, Any]
Kind = type[Command[Any]]
Codes = dict[str, dict[str, str]]


def every_command() -> Iterator[tuple[str, Kind]]:
    """Yield each command with the service that answers it."""
    for service, commands in COMMANDS.items():
        for command in commands:
            yield service, command


def between_workers(command: Kind) -> bool:
    """Tell whether only workers send this command."""
    return INTERNAL.match(command.subject) is not None


def components(template: str) -> tuple[list[Schema], dict[str, Schema]]:
    """Return references to the schemas of all messages, and the schemas by name.

    The references come as commands do, each with its reply, then the envelopes, then what events tell of.
    """
    kinds: list[Any] = [kind for _, command in every_command() for kind in (command, command.reply_type())]
    roots, parts = msgspec.json.schema_components(
        [*kinds, Event, ErrorReply, *OBJECTS.values()],
        schema_hook=lambda kind: SCHEMA_FORMATS[kind],
        ref_template=template,
    )
    return list(unindented(roots)), dict(unindented(dict(parts)))


def summary(kind: type) -> str:
    """Return the first line of a docstring."""
    return (kind.__doc__ or "").strip().splitlines()[0]


def raised_codes(services: Path) -> Codes:
    """Return, of each command, the codes that its handler's docstring says it raises, and when.

    A handler is a public function of a module; most, but not all, are in one named after them.
    """
    found: dict[str, dict[str, str]] = {}
    for path in sorted(services.glob("*/cnm_*/*.py"), key=lambda path: (not path.stem.endswith("handlers"), path)):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.AsyncFunctionDef) and not node.name.startswith("_"):
                command, raised = _commanded(node), _raises(ast.get_docstring(node) or "")
                if command is not None and raised:
                    found.setdefault(command, raised)
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
