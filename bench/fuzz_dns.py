"""Throws packets at the resolver's decisions, a million unless told otherwise, and says what that cost.

With atheris (``pip install atheris``) what to throw follows what was reached; without it, packets are mutated by
chance from a seed. Either way a packet must never raise, a reply must be one to it, fit, and be read by dnslib.
"""

import argparse
import random
import resource
import sys
import time
import tracemalloc
from collections import Counter
from ipaddress import ip_address, ip_network
from pathlib import Path

try:
    import atheris
except ImportError:
    atheris = None

from dnslib import EDNS0, DNSRecord

from cnm_resolver import wire
from cnm_resolver.answer import Drop, Forward, Response, Rota, answer
from cnm_resolver.directory import Directory
from cnm_resolver.zone import Record, Server, ServicePort, Settings, View

NAMES = (
    "c1", "C2.net", "all", "x.app", "y.x.app.net", "host.internal", "db", "gate.local", "nobody", "example.com", ".",
    "_http._tcp.c1", "_8005._tcp.all", "_80._tcp.x.app", "1.0.0.10.in-addr.arpa", "0.10.in-addr.arpa",
    ip_address("fd00::1").reverse_pointer, "1.0.0.0.d.f.ip6.arpa", ".".join("a" * 120), "x" * 63 + ".net",
)  # fmt: skip
KINDS = ("A", "AAAA", "PTR", "SRV", "MX", "TXT", "ANY", "AXFR", "HTTPS")
READ_EVERY = 50


def world() -> View:
    """Make a view with every kind of name in it."""
    directory = Directory((Server(ip_address("192.0.2.53")),))
    prefixes = ip_network("10.0.0.0/8"), ip_network("fd00::/8")
    directory.put_network("n", "net", enable_ipv6=True, prefixes=prefixes)
    ports = ServicePort(80), ServicePort(8000, last=8010), ServicePort(53, "udp")
    for number in range(1, 60):
        found = ip_address(f"10.0.0.{number}"), ip_address(f"fd00::{number}")
        names = f"c{number}", "all", "*.app" if number % 2 else "*.x.app"
        directory.put_record(Record(f"e{number}", "n", names, *found, ready=number != 5, ports=ports))
    return directory.put_sandbox(
        Settings(
            sandbox_id="s",
            networks=("n",),
            links={"db": "c1.net", "gone": "nobody"},
            extra_hosts=(("gate.local", ip_address("10.9.9.9")),),
            node_addresses=(ip_address("10.0.0.254"),),
        )
    )


def seeds() -> list[bytes]:
    """Write a question for every name and type, plain and with EDNS."""
    found = []
    for name in NAMES:
        for kind in KINDS:
            question = DNSRecord.question(name, kind)
            found.append(bytes(question.pack()))
            question.add_ar(EDNS0(udp_len=1232, flags="do"))
            found.append(bytes(question.pack()))
    return found


class Target:
    """Answers packets one after another, and looks at what comes out."""

    def __init__(self) -> None:
        self.view, self.rota = world(), Rota()
        self.packets = 0
        self.outcomes: Counter[str] = Counter()

    def __call__(self, packet: bytes) -> None:
        """Answer one packet, over UDP and TCP in turns.

        Raises:
            AssertionError: what came out is none that may.
        """
        stream = bool(self.packets & 1)
        self.packets += 1
        outcome = answer(packet, self.view, self.rota, stream=stream)
        if isinstance(outcome, Forward | Drop):
            self.outcomes[type(outcome).__name__] += 1
            return
        assert isinstance(outcome, Response)
        reply = outcome.packet
        self.outcomes[f"code {wire.code_of(reply)}"] += 1
        assert reply[:2] == packet[:2], packet
        assert reply[2] & 0x80, packet
        query = wire.parse(packet)
        limit = query.size if isinstance(query, wire.Query) and not stream else wire.MAX_SIZE
        assert len(reply) <= limit, packet
        readable = isinstance(query, wire.Query) and query.question.isascii()  # dnslib takes no other labels
        if readable and self.packets % READ_EVERY == 0:
            DNSRecord.parse(reply)

    def report(self, began: float, before: tuple[int, int]) -> str:
        memory = tracemalloc.get_traced_memory()[0], _resident()
        spent = time.perf_counter() - began
        lines = [f"{self.packets} packets in {spent:.0f} s, nothing raised, every reply fitted"]
        lines += [f"  {name}: {count}" for name, count in sorted(self.outcomes.items())]
        for what, old, new in zip(("traced", "resident"), before, memory, strict=True):
            lines.append(f"  {what} memory: {old / 1024:.0f} KiB before, {new / 1024:.0f} KiB after")
        return "\n".join(lines)


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def mutate(packet: bytes, chance: random.Random) -> bytes:
    """Turn bytes, cut, splice and repeat."""
    changed = bytearray(packet)
    for _ in range(chance.randrange(5)):
        place = chance.randrange(len(changed)) if changed else 0
        match chance.randrange(6):
            case 0 if changed:
                changed[place] = chance.choice((0, 1, 0x3F, 0x40, 0x7F, 0x80, 0xC0, 0xFF))
            case 1 if changed:
                changed[place] ^= 1 << chance.randrange(8)
            case 2:
                del changed[place:]
            case 3:
                changed[place:place] = chance.randbytes(chance.randrange(20))
            case 4:
                del changed[place : place + chance.randrange(1, 8)]
            case _:
                changed += changed[place : place + chance.randrange(40)]
    return bytes(changed[:65535])


def by_chance(target: Target, packets: int, seed: int) -> None:
    """Throw mutated questions, and noise now and then."""
    chance, corpus = random.Random(seed), seeds()
    for number in range(packets):
        noise = number % 10 == 0
        target(chance.randbytes(chance.randrange(200)) if noise else mutate(chance.choice(corpus), chance))


def guided(target: Target, packets: int, corpus: Path, finish: str) -> None:
    """Let atheris choose; it ends the process itself, so the report is written by the last packet."""
    corpus.mkdir(parents=True, exist_ok=True)
    for number, packet in enumerate(seeds()):
        (corpus / f"seed{number}").write_bytes(packet)
    atheris.instrument_all()
    began, before = _start()

    def one(packet: bytes) -> None:
        target(packet)
        if target.packets == packets:
            print(target.report(began, before), flush=True)

    words = [sys.argv[0], f"-atheris_runs={packets + 1}", "-max_len=1500", finish, str(corpus)]
    atheris.Setup(words, one)
    atheris.Fuzz()


def _start() -> tuple[float, tuple[int, int]]:
    tracemalloc.start()
    return time.perf_counter(), (tracemalloc.get_traced_memory()[0], _resident())


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.fuzz_dns", description=__doc__)
    parser.add_argument("--packets", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--corpus", type=Path, help="guided by atheris, which keeps here what reaches something new")
    asked = parser.parse_args()
    target = Target()
    if asked.corpus is not None:
        if atheris is None:
            parser.error("--corpus needs atheris: pip install atheris")
        guided(target, asked.packets, asked.corpus, f"-seed={asked.seed}")
        return
    by_chance(target, 20_000, asked.seed + 1)  # caches and code are there before anything is counted
    target.packets, target.outcomes = 0, Counter()
    began, before = _start()
    by_chance(target, asked.packets, asked.seed)
    print(target.report(began, before))


if __name__ == "__main__":
    main()
