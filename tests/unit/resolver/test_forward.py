"""Rows D12 to D15 and D22, with servers that do as they are told."""

import asyncio
from ipaddress import ip_address
from pathlib import Path

import pytest
from dnslib import RCODE, DNSRecord

from cnm_resolver import wire
from cnm_resolver.config import Limits
from cnm_resolver.forward import Forwarder, resolv_conf_servers
from cnm_resolver.zone import Server

FIRST, SECOND, THIRD = SERVERS = tuple(Server(ip_address(f"192.0.2.{number}")) for number in (1, 2, 3))
QUERY = wire.parse(bytes(DNSRecord.question("example.com").pack()))
NAMESPACE = Path("/nowhere")
QUICK = Limits(backoff_s=0.02, attempt_s=0.1, overall_s=0.15)
SLOW = Limits(backoff_s=60, attempt_s=60, overall_s=60)


class FakeUpstream:
    """Answers as its script says: a code, silence (None), or an error to raise."""

    def __init__(self, script: dict[Server, int | OSError | None]) -> None:
        self.script = script
        self.asked: list[Server] = []
        self.given_up: list[Server] = []

    async def exchange(self, server, query, namespace, *, stream):
        self.asked.append(server)
        match self.script[server]:
            case OSError() as error:
                raise error
            case None:
                try:
                    await asyncio.Event().wait()
                finally:
                    self.given_up.append(server)
            case code:
                return wire.respond(query, code)


async def _ask(upstream: FakeUpstream, limits: Limits = SLOW, servers=SERVERS) -> int:
    reply = await Forwarder(upstream, limits=limits).ask(QUERY, servers, NAMESPACE, stream=False)
    assert reply[:2] == QUERY.packet[:2]
    return wire.code_of(reply)


@pytest.mark.parametrize("code", [RCODE.NOERROR, RCODE.NXDOMAIN])
async def test_answer_of_the_first_server_is_final(code):
    upstream = FakeUpstream({FIRST: code, SECOND: 0, THIRD: 0})
    assert await _ask(upstream) == code
    assert upstream.asked == [FIRST]


@pytest.mark.parametrize("failure", [RCODE.SERVFAIL, RCODE.REFUSED, RCODE.NOTIMP, ConnectionRefusedError()])
async def test_failing_server_lets_the_next_try_at_once(failure):
    upstream = FakeUpstream({FIRST: failure, SECOND: 0, THIRD: 0})
    assert await _ask(upstream) == RCODE.NOERROR
    assert upstream.asked == [FIRST, SECOND]


async def test_silent_server_is_joined_by_the_next_and_given_up_when_that_answers():
    upstream = FakeUpstream({FIRST: None, SECOND: RCODE.NXDOMAIN, THIRD: 0})
    assert await _ask(upstream, Limits(backoff_s=0.01)) == RCODE.NXDOMAIN
    assert upstream.asked == [FIRST, SECOND]
    assert upstream.given_up == [FIRST]


async def test_last_failure_is_returned_when_all_fail():
    upstream = FakeUpstream({FIRST: RCODE.SERVFAIL, SECOND: RCODE.REFUSED, THIRD: OSError()})
    assert await _ask(upstream) == RCODE.REFUSED
    assert upstream.asked == [FIRST, SECOND, THIRD]


async def test_silence_of_all_becomes_a_server_failure():
    upstream = FakeUpstream({FIRST: None, SECOND: None, THIRD: None})
    assert await _ask(upstream, QUICK) == RCODE.SERVFAIL
    assert upstream.asked == upstream.given_up == [FIRST, SECOND, THIRD]


async def test_one_server_is_given_its_own_time_only():
    upstream = FakeUpstream({FIRST: None})
    limits = Limits(attempt_s=0.02, overall_s=60)
    async with asyncio.timeout(10):
        assert await _ask(upstream, limits, (FIRST,)) == RCODE.SERVFAIL


def test_standard_times_end_before_a_client_gives_up():
    limits = Limits()
    assert limits.attempt_s == 4
    assert limits.attempt_s + 2 * limits.backoff_s <= limits.overall_s < 5
    assert limits.forwards == 1024


def test_servers_of_a_resolv_conf():
    text = "# one\nnameserver 127.0.0.53\nnameserver 127.0.0.11\nnameserver fe80::1%eth0\nnameserver x\nsearch a\n"
    assert [str(server.address) for server in resolv_conf_servers(text)] == ["127.0.0.53", "fe80::1%eth0"]
