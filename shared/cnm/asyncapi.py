"""The AsyncAPI document of all messages, for tools."""

from collections.abc import Sequence
from typing import Any

from cnm.errors import BY_CODE
from cnm.messages import EVENTS, OBJECTS, UNPUBLISHED
from cnm.reference import (
    HEADERS,
    REPLY_HEADERS,
    Codes,
    Schema,
    between_workers,
    components,
    every_command,
    summary,
)
from cnm.version import VERSION


def asyncapi(codes: Codes, examples: Schema) -> Schema:
    """Return the AsyncAPI 3.0 document: a channel and an operation a command, a channel a kind of event."""
    _, parts = components("#/components/schemas/{name}")
    parts["ErrorBody"]["properties"]["code"]["enum"] = list(BY_CODE)
    channels: Schema = {}
    operations: Schema = {}
    messages: Schema = {
        "ErrorReply": _message("ErrorReply", REPLY_HEADERS, [each["reply"] for each in examples["refusals"].values()])
    }
    messages["ErrorReply"]["headers"] |= {"required": ["Nats-Service-Error-Code", "Nats-Service-Error"]}
    statuses = [str(kind.status) for kind in BY_CODE.values()]
    messages["ErrorReply"]["headers"]["properties"]["Nats-Service-Error-Code"]["enum"] = statuses
    for service, command in every_command():
        request, reply = command.__name__, command.reply_type().__name__
        key = command.subject.removeprefix("cnm.v1.").replace("{node}.", "")
        shown = examples["verbs"].get(command.subject)
        messages[request] = _message(request, HEADERS, [shown["request"]] if shown else [])
        if "examples" not in messages.setdefault(reply, _message(reply, {})) and shown:
            messages[reply] = _message(reply, {}, [shown["reply"]])
        answers = {name: {"$ref": f"#/components/messages/{name}"} for name in (reply, "ErrorReply")}
        channels[key] = {
            "address": command.subject,
            "messages": {request: {"$ref": f"#/components/messages/{request}"}},
            **({"parameters": {"node": {"description": "the node's name"}}} if "{node}" in command.subject else {}),
        }
        channels[f"{key}.reply"] = {"address": None, "messages": answers}
        refused = codes.get(command.__name__, {})
        operations[key] = {
            "action": "receive",
            "summary": summary(command),
            "tags": [{"name": service}, {"name": "between workers" if between_workers(command) else "clients"}],
            "bindings": {"nats": {"queue": service}},
            "channel": {"$ref": f"#/channels/{key}"},
            "messages": [{"$ref": f"#/channels/{key}/messages/{request}"}],
            "reply": {
                "address": {"location": "$message.header#/reply"},
                "channel": {"$ref": f"#/channels/{key}.reply"},
                "messages": [{"$ref": f"#/channels/{key}.reply/messages/{name}"} for name in answers],
            },
            **({"x-errors": refused} if refused else {}),
        }
    for noun, participles in EVENTS.items():
        name = f"{noun.capitalize()}Event"
        messages[name] = _event_message(name, noun, examples["events"])
        for participle in participles:
            key = f"event.{noun}.{participle}"
            channels[key] = {
                "address": f"cnm.v1.{key}.{{id}}",
                "messages": {name: {"$ref": f"#/components/messages/{name}"}},
                "parameters": {"id": {"description": "the id of the object that the event tells of"}},
            }
            operations[key] = {"action": "send", "channel": {"$ref": f"#/channels/{key}"}}
            if f"{noun}.{participle}" in UNPUBLISHED:
                operations[key]["description"] = "Not published yet."
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "CNM",
            "version": VERSION,
            "description": "The Container Network Model over NATS: request/reply, and events on the JetStream stream "
            "CNM_EVENTS.",
        },
        "servers": {
            "embedded": {
                "host": "127.0.0.1:4222",
                "protocol": "nats",
                "description": "Where `cnm up` has NATS when CNM_NATS_URL names no other.",
            }
        },
        "defaultContentType": "application/json",
        "channels": channels,
        "operations": operations,
        "components": {"messages": messages, "schemas": parts},
    }


CAUSE = "W3C trace context of the change that it tells of; there when somebody records traces"


def _message(name: str, headers: dict[str, str], payloads: Sequence[Any] = ()) -> Schema:
    found: Schema = {"name": name, "payload": {"$ref": f"#/components/schemas/{name}"}}
    if headers:
        properties: Schema = {header: {"type": "string", "description": text} for header, text in headers.items()}
        found["headers"] = {"type": "object", "properties": properties}
    if payloads:
        found["examples"] = [{"payload": payload} for payload in payloads]
    return found


def _event_message(name: str, noun: str, examples: Schema) -> Schema:
    shown = [body for kind, body in examples.items() if kind.startswith(f"{noun}.")]
    headers = {"Nats-Msg-Id": "the event's id, by which the stream knows duplicates", "traceparent": CAUSE}
    found = _message(name, headers, shown[:1])
    event = {"$ref": "#/components/schemas/Event"}
    if noun in OBJECTS:
        held = {"object": {"$ref": f"#/components/schemas/{OBJECTS[noun].__name__}"}}
        found["payload"] = {"allOf": [event, {"type": "object", "properties": held}]}
    else:
        found["payload"] = event
    return found
