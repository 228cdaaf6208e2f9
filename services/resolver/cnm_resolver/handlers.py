"""Answers the controller's commands to the resolver."""

import asyncio
from functools import partial

from cnm.bus import Route
from cnm.errors import NotFound
from cnm.messages.message import Empty
from cnm.messages.names import (
    CountNames,
    ForgetSandbox,
    ForgetZone,
    NameCounts,
    NameQuestions,
    NameServer,
    NameTimes,
    ResolvedName,
    ResolveName,
    UpdateNames,
)
from cnm.trace import current_trace
from cnm_resolver import wire
from cnm_resolver.cache import Cache
from cnm_resolver.counters import BOUNDS_S
from cnm_resolver.names import Names

CODES = {
    wire.NOERROR: "NOERROR",
    wire.FORMERR: "FORMERR",
    wire.SERVFAIL: "SERVFAIL",
    wire.NXDOMAIN: "NXDOMAIN",
    wire.NOTIMP: "NOTIMP",
    wire.REFUSED: "REFUSED",
}


TYPES = {
    wire.A: "A",
    2: "NS",
    wire.CNAME: "CNAME",
    wire.SOA: "SOA",
    wire.PTR: "PTR",
    wire.MX: "MX",
    wire.TXT: "TXT",
    wire.AAAA: "AAAA",
    wire.SRV: "SRV",
    43: "DS",
    48: "DNSKEY",
    64: "SVCB",
    65: "HTTPS",
    wire.ANY: "ANY",
}


async def update_names(command: UpdateNames, *, names: Names) -> Empty:
    """Know zones and records, forget endpoints, serve a sandbox.

    Raises:
        NotFound: the sandbox's namespace is not there.
        Unavailable: the kernel refused its sockets.
    """
    names.touch(
        *(zone.network_id for zone in command.zones),
        *(record.endpoint_id for record in command.records),
        *command.forget_endpoints,
        *([command.sandbox.sandbox_id] if command.sandbox else []),
    )
    for zone in command.zones:
        names.put_zone(zone)
    for record in command.records:
        names.put_record(record)
    for endpoint_id in command.forget_endpoints:
        names.directory.drop_record(endpoint_id)
    if command.sandbox is not None:
        await names.serve(command.sandbox)
    names.listeners.counters.change(current_trace())
    return Empty()


async def forget_sandbox(command: ForgetSandbox, *, names: Names) -> Empty:
    """Stop answering a sandbox; one that is not served is fine."""
    names.touch(command.sandbox_id)
    await names.forget_sandbox(command.sandbox_id)
    return Empty()


async def forget_zone(command: ForgetZone, *, names: Names) -> Empty:
    """Forget a network; one that is not known is fine."""
    names.touch(command.network_id)
    names.drop_zone(command.network_id)
    return Empty()


async def resolve_name(command: ResolveName, *, names: Names) -> ResolvedName:
    """Answer a name as a sandbox is answered.

    Raises:
        NotFound: the sandbox is not served here.
    """
    if command.sandbox_id not in names.listeners:
        raise NotFound(f"sandbox {command.sandbox_id[:12]} is not served by the embedded DNS")
    name = wire.encode_name(command.name) if command.name.isascii() else None
    if name is None:
        return ResolvedName(addresses=[], code="NXDOMAIN")
    asked = (wire.ask_for(name, kind) for kind in (wire.A, wire.AAAA))
    replies = await asyncio.gather(*(names.listeners.resolve(command.sandbox_id, packet) for packet in asked))
    codes = [wire.code_of(reply) for reply in replies]
    return ResolvedName(
        addresses=[address for reply in replies for address in wire.addresses_of(reply)],
        code=CODES.get(min(codes), str(min(codes))),
    )


async def count_names(_: CountNames, *, names: Names, cache: Cache) -> NameCounts:
    """Count what was asked, what came of it, and how the external servers do."""
    counters = names.listeners.counters
    return NameCounts(
        sandboxes=len(names.listeners),
        questions=[
            NameQuestions(
                source=source,
                type=TYPES.get(kind, f"TYPE{kind}"),
                code=None if code < 0 else CODES.get(code, str(code)),
                count=count,
            )
            for (source, kind, code), count in sorted(counters.questions.items())
        ],
        times=[
            NameTimes(source=source, bounds=list(BOUNDS_S), counts=list(counts))
            for source, counts in sorted(counters.times.items())
        ],
        servers=[
            NameServer(
                address=server.address,
                inside=server.inside,
                asked=health.asked,
                answered=health.answered,
                failed=health.failed,
                silent=health.silent,
                last_ms=None if health.last_s is None else round(health.last_s * 1000, 3),
            )
            for server, health in counters.servers.items()
        ],
        kept=len(cache),
        kept_bytes=cache.size,
    )


def _order(command: UpdateNames) -> str:
    return command.sandbox.sandbox_id if command.sandbox else ""


def routes(names: Names, cache: Cache) -> tuple[Route, ...]:
    """Return what this service answers; whatever concerns one sandbox is done one after another."""
    return (
        Route(command=UpdateNames, handler=partial(update_names, names=names), order_by=_order),
        Route(
            command=ForgetSandbox,
            handler=partial(forget_sandbox, names=names),
            order_by=lambda command: command.sandbox_id,
        ),
        Route(command=CountNames, handler=partial(count_names, names=names, cache=cache)),
        Route(command=ResolveName, handler=partial(resolve_name, names=names)),
        Route(command=ForgetZone, handler=partial(forget_zone, names=names)),
    )
