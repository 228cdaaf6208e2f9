"""What the gateway answers to a browser: values, which the server writes as JSON. Nothing here changes anything."""

import msgspec

from cnm.bus import Bus
from cnm.errors import Invalid, NotFound
from cnm.messages.endpoint import Endpoint, GetEndpoint
from cnm.messages.network import GetNetwork, Network
from cnm.messages.node import GetNode, Node
from cnm.messages.sandbox import GetSandbox, Sandbox
from cnm.spans import ATTACH
from cnm_gateway.config import LIMITS
from cnm_gateway.live import Live, State
from cnm_gateway.ports import Spans
from cnm_gateway.waterfall import Waterfall, waterfall


class Traces(msgspec.Struct, frozen=True, kw_only=True):
    """The last attaches, newest first."""

    traces: list[Waterfall]


def state(*, live: Live) -> State:
    """Show the topology now."""
    return live.state()


async def last_traces(limit: str | None, *, spans: Spans, live: Live) -> Traces:
    """Show the last attaches as waterfalls, ten unless ``limit`` says otherwise.

    Raises:
        Invalid: the limit is no number that is allowed.
        Unavailable: the spans cannot be read.
    """
    text = limit or "10"
    if not (text.isascii() and text.isdigit()) or not 1 <= int(text[:9]) <= LIMITS.traces:
        raise Invalid.at("limit", text, f"limit is {text!r}, it can be 1 to {LIMITS.traces}")
    found = await spans.last(ATTACH, limit=int(text))
    return Traces(traces=[waterfall(each, about=live.about(each[0].trace_id)) for each in found if each])


async def trace(trace_id: str, *, spans: Spans, live: Live) -> Waterfall:
    """Show one trace as a waterfall.

    Raises:
        NotFound: nothing of it is recorded.
        Unavailable: the spans cannot be read.
    """
    found = await spans.trace(trace_id)
    if not found:
        raise NotFound(f"nothing is recorded of the trace {trace_id}")
    return waterfall(found, about=live.about(trace_id))


async def shown(noun: str, key: str, *, bus: Bus) -> Network | Sandbox | Endpoint | Node:
    """Show an object as ``get`` does.

    Raises:
        NotFound: there is none, or no such noun.
        Unavailable: the controller does not answer.
    """
    match noun:
        case "network":
            return await bus.ask(GetNetwork(network=key))
        case "sandbox":
            return await bus.ask(GetSandbox(sandbox=key))
        case "endpoint":
            return await bus.ask(GetEndpoint(endpoint=key))
        case "node":
            return await bus.ask(GetNode(node=key))
        case _:
            raise NotFound(f"there is no {noun!r} to get; there are network, sandbox, endpoint and node")
