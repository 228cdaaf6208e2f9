"""All measures, one after the other, and what stands on the page of each."""

import asyncio
import shutil
import statistics
import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from types import MappingProxyType

from bench.peers import aims, names
from bench.peers.aims import Aim
from bench.peers.bare import Bare
from bench.peers.contender import LANES, PUBLISHED, Contender, plain
from bench.peers.docker import Dockerd
from bench.peers.ours import Cnm
from bench.peers.packages import Peer
from bench.peers.plugins import Cni, Netavark, Plugin
from bench.peers.processes import Memory
from bench.peers.room import Refused
from bench.peers.turns import Came, Pairs, Ratio, Side, clients, in_turn, one_client
from bench.report import Section, percentile

OURS, FLOOR, DOCKERD = "CNM", Bare.name, Dockerd.name
MANY = " with many"
NOT_YET = [["memory with `cnm up --single-process`", "there is no such option yet"]]
P50 = attrgetter("p50")
TAIL_OF = 200
"""A 99th percentile is taken of so many attaches, or of all when there are fewer."""
SERVERS = {OURS: "127.0.0.11", DOCKERD: "127.0.0.11", Netavark.name: "172.30.0.1"}
SHOWN = {FLOOR: f"{FLOOR}: one raw netlink batch", "netavark": "netavark with aardvark-dns"}
RATE_AIMS = {DOCKERD: aims.at_least(8), "netavark": aims.at_least(4), "CNI bridge": aims.at_least(4)}


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much is measured. A turn of CNM has ``pairs``, one of a peer ``peer_pairs`` or lasts ``seconds``."""

    rounds: int
    pairs: int
    peer_pairs: int
    seconds: float
    present: int
    many: int
    many_rounds: int
    many_peers: bool
    networks: int
    starts: int
    settle_s: float
    dns_rounds: int
    dns_seconds: float
    in_flight: tuple[int, ...]


FULL = Size(
    rounds=10, pairs=100, peer_pairs=10, seconds=3, present=10, many=500, many_rounds=8, many_peers=True, networks=8,
    starts=5, settle_s=5, dns_rounds=5, dns_seconds=2, in_flight=(1, 8, 50),
)  # fmt: skip
QUICK = Size(
    rounds=5, pairs=40, peer_pairs=5, seconds=2, present=10, many=500, many_rounds=4, many_peers=False, networks=4,
    starts=2, settle_s=3, dns_rounds=3, dns_seconds=1, in_flight=(1, 8, 50),
)  # fmt: skip
TRIAL = Size(
    rounds=1, pairs=2, peer_pairs=1, seconds=0.1, present=2, many=4, many_rounds=1, many_peers=False, networks=1,
    starts=1, settle_s=0, dns_rounds=1, dns_seconds=0.1, in_flight=(1,),
)  # fmt: skip
"""Proves that everything runs."""


class Measurement:
    """One run: who takes part, what was found, and who was left out."""

    def __init__(self, folder: Path, size: Size, groups: str, peers: Sequence[Peer]) -> None:
        """``groups`` is the control group for dockerd's containers."""
        self._folder, self._size, self._groups = folder, size, groups
        self._peers = {peer.name: peer for peer in peers}
        self._ratios: list[list[str]] = []
        self._own: list[list[str]] = []
        self._growth: list[list[str]] = []
        self._each: list[list[str]] = []
        self._failures: list[list[str]] = []

    @property
    def versions(self) -> list[list[str]]:
        """The Debian packages of each peer, with their versions; libraries go without saying."""
        return [
            [
                name,
                ", ".join(f"{package} {known}" for package, known in peer.versions.items() if package[:3] != "lib"),
            ]
            for name, peer in self._peers.items()
        ]

    async def take(self) -> list[Section]:
        """Measure everything, and return what stands on the page."""
        ours = Cnm(self._folder / "cnm")
        daemon = await self._starts(ours)
        await self._memory(ours, daemon)
        bare = Bare(self._folder / "bare")
        others = [side for side in (daemon, *self._plugins(""), bare) if side is not None]
        sides = [ours, *[side for side in others if await self._is_prepared(side, self._size.present)]]
        await ours.room.run(ours.prepare(self._size.present))
        await self._one_client(sides)
        sides.remove(bare)
        await bare.room.run(bare.end())
        await self._published(sides)
        await self._networks(ours, daemon if daemon in sides else None)
        await self._dns(sides)
        await self._clients(sides)  # last, for whom it breaks has had its other turns
        if daemon in sides:
            sides.remove(daemon)
            await daemon.room.run(daemon.end())
        await self._many(sides)
        for side in sides:
            await side.room.run(side.end())
        return self._sections()

    def _plugins(self, suffix: str) -> Iterator[Plugin]:
        for name, kind in (("netavark", Netavark), ("cni", Cni)):
            if name in self._peers:
                yield kind(self._folder / f"{name}{suffix}", self._peers[name], kind.name + suffix)

    async def _is_prepared(self, side: Contender, present: int) -> bool:
        say(f"{side.name}: getting ready with {present} endpoints")
        try:
            await side.room.run(side.prepare(present))
        except Refused as refused:
            self._failures.append([side.name, str(refused)])
            return False
        return True

    async def _turns(
        self, sides: Sequence[Side], rounds: int, turn: Callable[[Side], Awaitable[Came]]
    ) -> dict[str, list[Came]]:
        return await in_turn(sides, rounds, turn, self._failures)

    async def _starts(self, ours: Cnm) -> Dockerd | None:
        """Start CNM and dockerd several times, with nothing there; leave both running."""
        say("starting and stopping")
        sides: list[Cnm | Dockerd] = [ours]
        daemon = None
        if DOCKERD in self._peers:
            daemon = Dockerd(self._folder / "dockerd", self._peers[DOCKERD], self._groups)
            sides.append(daemon)
        stopped = {side.name for side in sides}
        spent: list[float] = []

        async def turn(side: Cnm | Dockerd) -> float:
            if side.name not in stopped:
                await side.room.run(side.stop())
            stopped.discard(side.name)
            seconds = await side.room.run(side.start()) / 1000
            if side is ours:
                spent.append(ours.processor_s())
            return seconds

        took = await self._turns(sides, self._size.starts, turn)
        mine = Ratio(took[OURS])
        self._own.append(["start of `cnm up` to ready, s", str(mine), *aims.judged(mine.median, aims.at_most(3))])
        self._own.append(["processor seconds of all its processes until then", str(Ratio(spent)), "", ""])
        self._compare("start to ready", took, lambda seconds: seconds, "s")
        return daemon if DOCKERD in took else None

    async def _memory(self, ours: Cnm, daemon: Dockerd | None) -> None:
        await asyncio.sleep(self._size.settle_s)
        mine = ours.memory()
        judged = aims.judged(mine["workers"].pss, aims.at_most(400), " MB")
        self._own.append(["memory of all workers, idle", str(mine["workers"]), *judged])
        self._own.append(["memory of NATS, Valkey and the supervisor beside them", str(mine["rest"]), "", ""])
        if daemon is not None:
            theirs = daemon.memory()
            shown = [f"{_total(memory):.0f} MB" for memory in (mine, theirs)]
            ratio = f"{_total(mine) / _total(theirs):.2f}"
            self._ratios.append(["memory of all, idle", "dockerd with containerd", *shown, ratio, "", ""])

    async def _one_client(self, sides: Sequence[Contender]) -> None:
        say("attaching, one client")
        came = await self._turns(sides, self._size.rounds, lambda side: one_client(side, plain(0), self._pairs(side)))
        limits = {DOCKERD: aims.at_most(0.25), FLOOR: aims.at_most(4)}
        self._compare("attach, one client, p50", came, P50, "ms", limits)
        if OURS not in came:
            return
        tails = Ratio([percentile(some, 0.99) / percentile(some, 0.5) for some in _parts(came[OURS])])
        self._own.append(["attach, one client, p99 : p50", str(tails), *aims.judged(tails.median, aims.at_most(3))])
        self._tell("one client", came)

    async def _published(self, sides: Sequence[Contender]) -> None:
        say("attaching with a published port")
        came = await self._turns(
            sides, self._size.rounds, lambda side: one_client(side, PUBLISHED, self._pairs(side))
        )
        self._compare("attach with a published port, p50", came, P50, "ms")
        self._tell("one client, a published port", came)

    async def _clients(self, sides: Sequence[Contender]) -> None:
        say(f"attaching, {LANES} clients")
        came = await self._turns(sides, self._size.rounds, lambda side: clients(side, self._size.seconds))
        work = f"attach + detach, {LANES} clients, pairs a second"
        self._compare(work, came, lambda turn: turn.rate, "/s", RATE_AIMS)
        self._tell(f"{LANES} clients", came)

    def _pairs(self, side: Contender) -> int:
        return self._size.pairs if side.name in {OURS, FLOOR} else self._size.peer_pairs

    async def _networks(self, ours: Cnm, daemon: Dockerd | None) -> None:
        if daemon is None:
            return
        say("making and deleting networks")

        async def turn(side: Cnm | Dockerd) -> list[tuple[float, float]]:
            return [await side.room.run(side.network()) for _ in range(self._size.networks)]

        sides: list[Cnm | Dockerd] = [ours, daemon]
        came = await self._turns(sides, self._size.rounds, turn)
        self._compare("network create, p50", came, lambda took: statistics.median(made for made, _ in took), "ms")
        self._compare("network delete, p50", came, lambda took: statistics.median(gone for _, gone in took), "ms")

    async def _dns(self, sides: Sequence[Contender]) -> None:
        """Ask for the names of who is present, everywhere the same ones."""
        say("asking for names")
        asked = [f"c{number}" for number in range(self._size.present)]
        dnsmasq = None
        if "dnsmasq" in self._peers:
            dnsmasq = names.Dnsmasq(self._folder / "dnsmasq", self._peers["dnsmasq"], asked)
        servers = []
        for side in sides:
            if not isinstance(side, Cnm | Dockerd | Netavark):
                continue
            namespace = await side.room.run(side.inside())
            called = "aardvark-dns" if isinstance(side, Netavark) else side.name
            servers.append(names.Server(called, namespace, SERVERS[side.name]))
            try:
                # With a change of the network aardvark-dns reads its names again, should it have missed some.
                await one_client(side, plain(0), 1)
                names.await_answer(servers[-1], asked[0])
            except Refused as refused:
                self._failures.append([called, str(refused)])
                servers.pop()
        if dnsmasq is not None:
            await dnsmasq.room.run(dnsmasq.start())
            servers.append(dnsmasq.server())
        dnsperf = self._peers.get("dnsperf")
        for in_flight in self._size.in_flight:
            if in_flight > 1 and dnsperf is None and shutil.which("dnsperf") is None:
                self._failures.append(
                    ["dnsperf", f"is missing, so that nobody was asked {in_flight} questions at once"]
                )
                continue

            async def turn(server: names.Server, in_flight: int = in_flight) -> float:
                if in_flight == 1:
                    return names.one_by_one(server, asked, self._size.dns_seconds)
                return names.many(server, asked, self._size.dns_seconds, in_flight, dnsperf)

            came = await self._turns(servers, self._size.dns_rounds, turn)
            work = f"names of the network, {in_flight} in flight, answers a second"
            self._compare(work, came, lambda rate: rate, "/s")
        if dnsmasq is not None:
            await dnsmasq.room.run(dnsmasq.end())

    async def _many(self, sides: Sequence[Contender]) -> None:
        """Compare each with one of its kind that has many endpoints present, in a room of its own."""
        few, many = self._size.present, self._size.many
        ours = Cnm(self._folder / "cnm-many", OURS + MANY)
        await ours.room.run(ours.start())
        bigger: list[Contender] = [ours, *(self._plugins(MANY) if self._size.many_peers else ())]
        for other in bigger:
            found = [side for side in sides if side.name + MANY == other.name]
            if not found or not await self._is_prepared(other, many):
                continue
            say(f"{found[0].name}: {many} present and {few} present in turn")
            both = await self._turns(
                [*found, other], self._size.many_rounds, lambda side: one_client(side, plain(0), self._pairs(side))
            )
            if len(both) == 2:
                thin, thick = ([turn.p50 for turn in turns] for turns in both.values())
                ratio = Ratio([more / less for more, less in zip(thick, thin, strict=True)])
                aim = aims.at_most(1.15) if other is ours else None
                shown = [f"{statistics.median(values):.1f}" for values in (thin, thick)]
                self._growth.append([_called(found[0].name), *shown, str(ratio), *aims.judged(ratio.median, aim)])
            await other.room.run(other.end())

    def _compare(
        self,
        work: str,
        came: dict[str, list[Came]],
        value: Callable[[Came], float],
        unit: str,
        limits: Mapping[str, Aim] = MappingProxyType({}),
    ) -> None:
        """Note CNM beside each other one."""
        for name, turns in came.items():
            if name != OURS and OURS in came:
                mine, theirs = ([value(turn) for turn in each] for each in (came[OURS], turns))
                self._ratios.append(aims.row(work, _called(name), mine, theirs, unit, limits.get(name)))

    def _tell(self, how: str, came: dict[str, list[Pairs]]) -> None:
        """Note what each did in its turns, all of them together."""
        for name, turns in came.items():
            attached = [value for turn in turns for value in turn.attached]
            detached = [value for turn in turns for value in turn.detached]
            times = [f"{percentile(each, part):.1f}" for each in (attached, detached) for part in (0.5, 0.99)]
            rate = f"{statistics.median(turn.rate for turn in turns):.1f}" if turns[0].rate else ""
            failed = sum(turn.failed for turn in turns)
            self._each.append([how, _called(name), *times, rate, f"{failed} of {failed + len(attached)}"])

    def _sections(self) -> list[Section]:
        size = self._size
        order = {work: number for number, work in enumerate(dict.fromkeys(row[0] for row in self._ratios))}
        return [
            Section(
                title="CNM beside the peers",
                note=f"With {size.present} endpoints present. Medians over the rounds ({size.rounds} of attaches and "
                f"networks, {size.dns_rounds} of names, {size.starts} starts), and of each round's own ratio the "
                "median, the lowest and the highest.",
                head=aims.HEAD,
                rows=sorted(self._ratios, key=lambda row: order[row[0]]),
            ),
            Section(
                title="CNM by itself",
                note=f"Memory is PSS, {size.settle_s:g} s after the start with nothing there; p99 : p50 is taken of "
                f"every {TAIL_OF} attaches, or of all where there were fewer.",
                head=["what", "CNM", "aim", "met"],
                rows=self._own,
            ),
            Section(
                title="Growth",
                note=f"The p50 of an attach, one client, with {size.present} endpoints present and with {size.many}, "
                f"in turn in two rooms, {size.many_rounds} rounds; milliseconds.",
                head=["who", f"{size.present} present", f"{size.many} present", "ratio", "aim", "met"],
                rows=self._growth,
            ),
            Section(
                title="What each did",
                note="All rounds together; milliseconds. A pair that failed is in no other column.",
                head=["how", "who", "attach p50", "attach p99", "detach p50", "detach p99", "pairs/s", "failed"],
                rows=self._each,
            ),
        ]

    def left_out(self, before: list[list[str]]) -> Section:
        """Tell who failed, besides those who could not be had before, and what is not there yet."""
        return Section(
            title="Left out",
            note="Who could not be had or failed, and what is not there yet.",
            head=["what", "why"],
            rows=[*before, *self._failures, *NOT_YET],
        )


def say(line: str) -> None:
    """Tell how far it is; the page goes elsewhere."""
    print(f"==> {line}", file=sys.stderr, flush=True)


def _called(name: str) -> str:
    return SHOWN.get(name, name)


def _parts(turns: Sequence[Pairs]) -> list[list[float]]:
    """Return the attaches of all turns in parts that are long enough for a 99th percentile."""
    attached = [value for turn in turns for value in turn.attached]
    count = max(1, len(attached) // TAIL_OF)
    return [attached[len(attached) * part // count : len(attached) * (part + 1) // count] for part in range(count)]


def _total(memory: dict[str, Memory]) -> float:
    return sum(part.pss for part in memory.values())
