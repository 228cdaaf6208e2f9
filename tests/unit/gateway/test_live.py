"""Is what browsers are told what is, and are they told when it is not?"""

import asyncio
import json
from contextlib import asynccontextmanager

import pytest

from cnm.bus import Route
from cnm.errors import Exhausted, Unavailable
from cnm.messages.endpoint import ListEndpoints
from cnm.messages.network import ListNetworks
from cnm.messages.node import ListNodes
from cnm.messages.sandbox import ListSandboxes
from cnm.testing import MemoryBus
from cnm_gateway.config import Limits
from cnm_gateway.live import Live
from cnm_gateway.ports import Heard
from cnm_gateway.sse import last_id

from .test_topology import World

LIMITS = Limits(heartbeat_s=0.05, nodes_period_s=0.02, lists_period_s=0.02, clients=2, messages=20, shown_events=5)


class Stream:
    """``Events`` in memory."""

    def __init__(self):
        self.heard, self.down, self.news = [], False, asyncio.Event()

    def put(self, *events):
        for subject, event in events:
            self.heard.append(Heard(len(self.heard) + 1, subject, event))
        self.turn()

    def turn(self):
        self.news.set()
        self.news = asyncio.Event()

    def check(self):
        if self.down:
            raise Unavailable("NATS cannot be reached")

    async def last(self):
        self.check()
        return len(self.heard)

    async def follow(self, after):
        while True:
            self.check()
            news = self.news
            for each in self.heard[after:]:
                after = each.sequence
                yield each
            yield None
            await news.wait()


class Installation:
    """A world whose lists are served and whose events are streamed."""

    def __init__(self):
        self.world, self.stream, self.bus = World(), Stream(), MemoryBus()

        def route(command, place):
            async def answer(_):
                return self.world.lists()[place]

            return Route(command=command, handler=answer)

        self.bus.serve(
            [route(each, n) for n, each in enumerate((ListNodes, ListNetworks, ListSandboxes, ListEndpoints))]
        )

    def do(self, *deed):
        self.stream.put(*self.world.do(*deed))

    @asynccontextmanager
    async def live(self, limits=LIMITS):
        made = Live(bus=self.bus, events=self.stream, limits=limits)
        tasks = [asyncio.create_task(made.follow()), asyncio.create_task(made.keep_asking())]
        try:
            yield made
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


@pytest.fixture
def installation():
    return Installation()


async def until(condition):
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.001)


def messages(told):
    """Read what a browser would."""
    for block in filter(None, told.decode().split("\n\n")):
        fields = dict(line.split(": ", 1) for line in block.splitlines())
        yield fields["event"], fields.get("id"), json.loads(fields["data"])


async def first(live, after=None):
    async for told in live.told(after):
        return list(messages(told))
    return []


async def test_state_is_what_lists_tell_and_then_what_events_tell(installation):
    installation.do("make_network", 1, 0)
    async with installation.live() as live:
        await until(lambda: live.health.live)
        installation.do("make_sandbox", 1, 0)
        installation.do("connect", 0, 0)
        await until(lambda: live.sequence == 4)
        shown = live.state()
        assert [each.name for each in shown.networks] == ["net1"]
        assert [each.sandbox for each in shown.endpoints] == [shown.sandboxes[0].id]
        (kind, id, told), (health, _, _) = await first(live)
        assert (kind, id, health) == ("state", "4", "health")
        assert [each["subject"].split(".")[3] for each in told["events"]] == [
            "network",
            "sandbox",
            "endpoint",
            "endpoint",
        ]


async def test_a_browser_that_was_away_is_told_what_it_missed_or_everything(installation):
    async with installation.live() as live:
        await until(lambda: live.health.live)
        for number in range(3):
            installation.do("make_network", number, 0)
        await until(lambda: live.sequence == 3)
        kinds = [(kind, id) for kind, id, _ in await first(live, after=1)]
        assert kinds == [("health", None), ("change", "2"), ("change", "3")]
        for number in range(40):
            installation.do("make_network", number, 0)
        await until(lambda: live.sequence == 43)
        assert [kind for kind, _, _ in await first(live, after=1)] == ["state", "health"]
        assert [kind for kind, _, _ in await first(live, after=999)] == ["state", "health"]


async def test_a_browser_that_takes_nothing_is_let_go_and_costs_nothing(installation):
    async with installation.live() as live:
        await until(lambda: live.health.live)
        told = live.told(None)
        await anext(told)
        for number in range(60):
            installation.do("make_network", number, 0)
        await until(lambda: live.sequence == 60)
        assert [each async for each in told] == []


async def test_no_more_than_so_many_follow(installation):
    async with installation.live() as live:
        with live.watching(), live.watching(), pytest.raises(Exhausted, match="2 browsers"), live.watching():
            pass
        assert live.watchers == 0


async def test_it_says_why_it_is_stale_and_goes_on(installation):
    async with installation.live() as live:
        await until(lambda: live.health.live)
        told = live.told(None)
        await anext(told)
        installation.stream.down = True
        installation.stream.turn()
        await until(lambda: not live.health.live)
        assert live.health.why == "NATS cannot be reached"
        ((kind, _, health),) = messages(await anext(told))
        assert (kind, health["live"]) == ("health", False)
        installation.stream.down = False
        await until(lambda: live.health.live)
        await told.aclose()


async def test_it_is_stale_until_the_controller_has_answered(installation):
    installation.bus.vanish(ListNetworks)
    async with installation.live() as live:
        await until(lambda: live.health.why == "nobody answers on cnm.v1.network.list")
        assert not live.health.live
        installation.bus.heal(ListNetworks)
        await until(lambda: live.health.live)


async def test_what_no_event_told_is_found_by_asking_again(installation):
    async with installation.live() as live:
        await until(lambda: live.health.live)
        installation.world.do("make_network", 1, 0)
        with live.watching():
            await until(lambda: live.topology.networks)
        assert [kind for kind, _, _ in await first(live)] == ["state", "health"]


async def test_a_controller_that_is_away_is_told_though_events_come(installation):
    async with installation.live() as live:
        await until(lambda: live.health.live)
        installation.bus.vanish(ListNodes)
        await until(lambda: live.health.why == "nobody answers on cnm.v1.node.list")
        assert live.health.live
        installation.bus.heal(ListNodes)
        await until(lambda: live.health.why is None)


async def test_a_stream_that_began_anew_is_followed_from_its_beginning(installation):
    for number in range(5):
        installation.do("make_network", number, 0)
    async with installation.live() as live:
        await until(lambda: live.health.live)
        installation.stream.heard.clear()
        installation.stream.down = True
        installation.stream.turn()
        await until(lambda: not live.health.live)
        installation.do("make_sandbox", 1, 0)
        installation.stream.down = False
        await until(lambda: live.health.live)
        assert (live.sequence, len(live.topology.networks), len(live.topology.sandboxes)) == (1, 5, 1)


@pytest.mark.parametrize(("text", "id"), [("7", 7), ("", None), (None, None), ("x", None), ("-1", None), ("٣", None)])
def test_last_event_id(text, id):
    assert last_id(text) == id
