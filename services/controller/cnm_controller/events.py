"""Makes the events that a commit writes with its changes."""

import secrets
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from cnm.bus import current_call
from cnm.messages.message import Event, encode, event_subject, to_builtins
from cnm.messages.sandbox import PortBinding
from cnm.store import OutgoingEvent
from cnm_controller.documents import SandboxBody


def event(noun: str, participle: str, about: str, shown: Any, *, node: str | None = None) -> OutgoingEvent:
    """Make an event about the object with this id, shown as ``get`` shows it.

    Its trace and request are those of the call that is being answered, or new ones.
    """
    call = current_call()
    body = Event(
        id=secrets.token_hex(16),
        time=datetime.now(UTC),
        node=node,
        trace_id=call.trace_id if call else secrets.token_hex(16),
        request_id=call.request_id if call else secrets.token_hex(16),
        object=to_builtins(shown),
    )
    return OutgoingEvent(id=body.id, subject=event_subject(noun, participle, about), body=encode(body).decode())


def port_events(sandbox: SandboxBody, bound: Sequence[PortBinding]) -> list[OutgoingEvent]:
    """Make the events of a sandbox whose bound ports become others: what closed, what opened."""
    events = []
    for participle, ports in (("unpublished", sandbox.bound), ("published", bound)):
        if ports and list(bound) != list(sandbox.bound):
            shown = {"id": sandbox.id, "sandbox": sandbox.id, "name": sandbox.name, "ports": to_builtins(list(ports))}
            events.append(event("port", participle, sandbox.id, shown, node=sandbox.node))
    return events
