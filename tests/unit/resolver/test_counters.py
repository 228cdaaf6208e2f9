"""What was asked is counted, and logged now and then."""

from ipaddress import ip_address

import pytest
from dnslib import DNSRecord

from cnm.errors import Invalid
from cnm_resolver import wire
from cnm_resolver.config import log_every
from cnm_resolver.counters import BOUNDS_S, MEASURE_EACH, SERVERS, Counters
from cnm_resolver.zone import Server


def asked(name="api", kind="A"):
    return bytes(DNSRecord.question(name, kind).pack())


def replied(packet, code):
    return wire.respond(wire.parse(packet), code)


def test_questions_are_counted_by_source_kind_and_code(view):
    counters = Counters()
    for kind, code, times in (("A", 0, 3), ("AAAA", 0, 2), ("A", 3, 1)):
        for _ in range(times):
            counters.count("own", asked(kind=kind), replied(asked(kind=kind), code), view)
    counters.count("dropped", b"", None, view)
    counters.count("dropped", b"\7" * 40, None, view)
    counters.count("own", asked(".", "NS"), replied(asked(".", "NS"), 2), view)
    assert counters.questions == {
        ("own", 1, 0): 3,
        ("own", 28, 0): 2,
        ("own", 1, 3): 1,
        ("own", 2, 2): 1,
        ("dropped", 0, -1): 2,
    }


def test_one_in_many_is_timed(view):
    counters = Counters()
    began = [counters.begin() for _ in range(2 * MEASURE_EACH)]
    assert [index for index, at in enumerate(began, 1) if at is not None] == [MEASURE_EACH, 2 * MEASURE_EACH]
    counters.count("own", asked(), replied(asked(), 0), view, began=began[MEASURE_EACH - 1])
    counters.count("outside", asked(), replied(asked(), 0), view, began=-1e6)
    assert sum(counters.times["own"]) == 1
    assert counters.times["outside"] == [0] * len(BOUNDS_S) + [1]


def test_servers_are_counted_and_of_too_many_the_oldest_forgotten():
    counters = Counters()
    first = Server(ip_address("192.0.2.1"))
    counters.server(first).asked += 1
    for number in range(SERVERS - 1):
        counters.server(Server(ip_address(f"198.51.{number // 250}.{number % 250}")))
    assert counters.server(first).asked == 1
    counters.server(Server(ip_address("203.0.113.1")))
    assert counters.server(first).asked == 1
    assert len(counters.servers) == SERVERS


class Log:
    def __init__(self):
        self.lines = []

    def debug(self, _event, **fields):
        self.lines.append(fields)


def test_every_so_many_questions_and_every_failure_are_logged(view, monkeypatch):
    log = Log()
    monkeypatch.setattr("cnm_resolver.counters.log", log)
    counters = Counters(log_every=10)
    for _ in range(20):
        counters.count("own", asked("Api.web"), replied(asked("Api.web"), 0), view)
    counters.count("own", asked(), replied(asked(), wire.REFUSED), view)
    counters.count("dropped", b"x", None, view)
    told = [(each["name"], each["code"]) for each in log.lines]
    assert told == [("api.web", 0), ("api.web", 0), ("api", wire.REFUSED)]
    assert log.lines[0]["sandbox_id"] == "s1"
    log.lines.clear()
    Counters().count("own", asked(), replied(asked(), wire.REFUSED), view)
    assert log.lines == []


@pytest.mark.parametrize(
    ("environment", "every"),
    [
        ({}, 0),
        ({"CNM_LOG_LEVEL": "INFO", "CNM_DNS_LOG_EVERY": "5"}, 0),
        ({"CNM_LOG_LEVEL": "debug"}, 100),
        ({"CNM_LOG_LEVEL": "DEBUG", "CNM_DNS_LOG_EVERY": "5"}, 5),
    ],
)
def test_the_log_is_of_the_level_debug(environment, every):
    assert log_every(environment) == every


def test_a_number_that_is_none_is_refused():
    with pytest.raises(Invalid, match="often"):
        log_every({"CNM_LOG_LEVEL": "DEBUG", "CNM_DNS_LOG_EVERY": "often"})
