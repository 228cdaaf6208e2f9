"""Makes the events that a commit writes with its changes."""

import secrets
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from cnm.bus import current_call
from cnm.messages.message import Event, encode, event_subject, to_builtins
from cnm.messages.sandbox import PortBinding
from cnm.store import OutgoingEvent
from cnm.trace import present_parent
from cnm_controller.documents import SandboxBody
from cnm_controller.specs import Joined, routed_bindings


def event(
    noun: str, participle: str, about: str, shown: Any, *, node: str | None = None, id: str | None = None
) -> OutgoingEvent:
    """Make an event about the object with this id, shown as ``get`` shows it.

    Its trace and request are those of the call that is being answered, or new ones. The stream takes an event of one
    ``id`` once.
    """
    call = current_call()
    body = Event(
        id=id or secrets.token_hex(16),
        time=datetime.now(UTC),
        node=node,
        trace_id=call.trace_id if call else secrets.token_hex(16),
        request_id=call.request_id if call else secrets.token_hex(16),
        object=to_builtins(shown),
    )
    return OutgoingEvent(
        id=body.id,
        subject=event_subject(noun, participle, about),
        body=encode(body).decode(),
        traceparent=present_parent(),
    )


def changed_port_events(
    before: SandboxBody, after: SandboxBody, joined: Sequence[Joined]
) -> tuple[OutgoingEvent, ...]:
    """Make the events of a sandbox of which some ports came or went: the bindings that did, routed ones too."""
    had, has = ([*body.bound, *routed_bindings(body, joined)] for body in (before, after))
    gone, come = [each for each in had if each not in has], [each for each in has if each not in had]
    told = (("unpublished", gone), ("published", come))
    return tuple(_port_event(after, participle, ports) for participle, ports in told if ports)


def port_events(sandbox: SandboxBody, bound: Sequence[PortBinding]) -> list[OutgoingEvent]:
    """Make the events of a sandbox whose bound ports become others: what closed, what opened."""
    events = []
    for participle, ports in (("unpublished", sandbox.bound), ("published", bound)):
        if ports and list(bound) != list(sandbox.bound):
            events.append(_port_event(sandbox, participle, ports))
    return events


def _port_event(sandbox: SandboxBody, participle: str, ports: Sequence[PortBinding]) -> OutgoingEvent:
    shown = {"id": sandbox.id, "sandbox": sandbox.id, "name": sandbox.name, "ports": to_builtins(list(ports))}
    return event("port", participle, sandbox.id, shown, node=sandbox.node)
