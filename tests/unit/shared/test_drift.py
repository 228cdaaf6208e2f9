"""What a worker tells the controller of what it found to differ, and how often."""

import asyncio

import pytest

from cnm.drift import KEPT, SHOWN, DriftReports, shortened
from cnm.errors import Unavailable
from cnm.messages.drift import Difference


def difference(value="ip link add", *, reason=None):
    return Difference(
        worker="w", what="link", about="endpoint a", id="a", value=value, repaired=reason is None, reason=reason
    )


@pytest.fixture
def told():
    return []


@pytest.fixture
def reports(told):
    async def send(report):
        told.append([each.value for each in report.differences])

    return DriftReports(send, node="n1")


async def test_what_was_mended_is_told_each_time(reports, told):
    for _ in range(2):
        reports.note([difference()])
        await reports.tell()
    reports.note([])
    await reports.tell()
    assert told == [["ip link add"], ["ip link add"]]


async def test_what_cannot_be_mended_is_told_when_found_again_and_once(reports, told):
    for _ in range(4):
        reports.note([difference("no", reason="taken")])
        await reports.tell()
    assert told == [["no"]]
    for found in ([], [difference("no", reason="taken")], [difference("no", reason="taken")]):
        reports.note(found)
        await reports.tell()
    assert told == [["no"], ["no"]], "it was gone in between"


async def test_nothing_is_lost_while_the_controller_is_away_and_the_order_stays():
    told, away = [], [True]

    async def send(report):
        if away[0]:
            raise Unavailable("no responders")
        told.append((report.id, [each.value for each in report.differences]))

    reports = DriftReports(send, node="n1")
    for number in range(3):
        reports.note([difference(str(number))])
        await reports.tell()
    away[0] = False
    await reports.tell()
    assert [values for _, values in told] == [["0"], ["1"], ["2"]]
    assert len({identity for identity, _ in told}) == 3
    await reports.tell()
    assert len(told) == 3


async def test_so_much_is_kept_and_no_more(reports, told):
    reports.note([difference(str(number)) for number in range(KEPT + 1000)])
    await reports.tell()
    kept = [value for report in told for value in report]
    assert len(kept) == KEPT
    assert kept[-1] == str(KEPT + 999), "the newest stay"


def test_a_long_repair_is_told_by_its_beginning():
    assert shortened(["a", "b"]) == ["a", "b"]
    assert shortened([str(number) for number in range(SHOWN + 7)])[-2:] == [str(SHOWN - 1), "and 7 more"]


async def test_what_is_found_and_mended_is_counted_by_what_it_is():
    async def send(_):
        pass

    reports = DriftReports(send, node="n1", worker="cnm-driver-bridge")

    def counted(name):
        return {each.labels[0]: each.value for each in reports.samples() if each.metric.name == name}

    assert counted("cnm_drift_found_total") == {"rules": 0, "bridge": 0, "link": 0, "stray link": 0}
    for _ in range(3):
        reports.note([difference(), difference("no", reason="taken")])
    assert counted("cnm_drift_found_total")["link"] == 4  # what stays is found once
    assert counted("cnm_drift_repaired_total")["link"] == 3
    assert counted("cnm_drift_unrepaired")["link"] == 1
    reports.note([])
    assert counted("cnm_drift_unrepaired")["link"] == 0


@pytest.mark.parametrize("more", [0, 2 * KEPT])
async def test_who_tell_at_once_tell_each_report_once_and_in_order(more):
    """So do the clock's turn and a check; what came meanwhile may have pushed out what is being sent."""
    told, go = [], asyncio.Event()

    async def send(report):
        told.append(report.differences[0].value)
        await go.wait()

    reports = DriftReports(send, node="n1")
    reports.note([difference("first")])
    reports.note([difference("second")])
    telling = [asyncio.ensure_future(reports.tell()) for _ in range(2)]
    await asyncio.sleep(0)
    reports.note([difference(f"more {number}") for number in range(more)])
    go.set()
    await asyncio.gather(*telling)
    assert told[0] == "first"
    assert len(set(told)) == len(told)
    assert more or told == ["first", "second"]
