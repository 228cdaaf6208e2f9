"""Spans of questions: of each that went outside, of the first after names changed, and of one in 64."""

from cnm import telemetry
from cnm_resolver import wire
from cnm_resolver.counters import Told
from cnm_resolver.handlers import CODES, TYPES


def tell(told: Told) -> None:
    """Record a question as a trace of its own, linked to the request that changed names last before it."""
    asked = wire.parse(told.packet)
    attributes = {
        "dns.question.name": wire.text_of(asked.name) if isinstance(asked, wire.Query) else "",
        "dns.question.type": TYPES.get(told.kind, f"TYPE{told.kind}"),
        "dns.response_code": CODES.get(told.code, str(told.code)),
        "cnm.dns.source": told.source,
        "cnm.sandbox.id": told.view.settings.sandbox_id,
    }
    links = () if told.cause is None else (told.cause,)
    telemetry.past("answer DNS", "server", attributes, took_s=told.took_s, links=links)
