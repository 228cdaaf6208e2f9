"""The acceptance table of libnetwork's allocator (inventory 11.6), row by row, against a real server.

A row is a list of steps; each says what is asked and what comes of it. Where our contract decides differently, the
step says what comes here, and why.
"""

import re
from dataclasses import dataclass
from ipaddress import ip_address, ip_network

import pytest

from cnm.errors import CnmError, Conflict, Exhausted, Invalid
from cnm.messages.ipam import GetPool, ReleaseAddress, RequestPool
from cnm.messages.message import decode
from cnm.prefix import overlap

SERIAL = {"com.docker.network.ipam.serial": True}
LOCAL = [f"172.{n}.0.0/16" for n in range(17, 32)] + [f"192.168.{n}.0/20" for n in range(0, 256, 16)]


@dataclass
class Pool:
    """Ask for a pool; it becomes the one that the next steps are about."""

    pool: str | None
    sub_pool: str | None = None
    space: str = "LocalDefault"
    refused: str | None = None

    async def run(self, ipam, state):
        wish = {"space": self.space}
        if self.refused is not None:
            with pytest.raises(CnmError) as caught:
                await ipam.pool(self.pool, self.sub_pool, **wish)
            assert caught.value.code == self.refused
            return
        state.pool_id = await ipam.pool(self.pool, self.sub_pool, **wish)
        state.ids.append(state.pool_id)


@dataclass
class Any:
    """Ask for any address, or for this one, so many times; the last one is what is expected."""

    expected: str | None = None
    wanted: str | None = None
    times: int = 1
    serial: bool = False
    refused: str | None = None

    async def run(self, ipam, state):
        for _ in range(self.times - 1):
            await ipam.address(state.pool_id, self.wanted, options=SERIAL if self.serial else {})
        if self.refused is not None:
            with pytest.raises(CnmError) as caught:
                await ipam.address(state.pool_id, self.wanted)
            assert caught.value.code == self.refused
            return
        found = await ipam.address(state.pool_id, self.wanted, options=SERIAL if self.serial else {})
        assert found == self.expected


@dataclass
class Fill:
    """Ask for any address until there is none; the last one is what is expected, and nothing is free then."""

    last: str

    async def run(self, ipam, state):
        found = ""
        while (await ipam.counts(state.pool_id))[1]:
            found = await ipam.address(state.pool_id)
        assert found == self.last
        with pytest.raises(Exhausted):
            await ipam.address(state.pool_id)


@dataclass
class Free:
    """Give an address back."""

    address: str

    async def run(self, ipam, state):
        await ipam.release(state.pool_id, self.address)


@dataclass
class Release:
    """Give a pool back: the last one, or that which was asked for n-th."""

    index: int = -1
    refused: str | None = None

    async def run(self, ipam, state):
        if self.refused is None:
            await ipam.release_pool(state.ids[self.index])
            return
        with pytest.raises(CnmError) as caught:
            await ipam.release_pool(state.ids[self.index])
        assert caught.value.code == self.refused


@dataclass
class Same:
    """Two pools have one id, or two."""

    one: int
    other: int
    same: bool = True

    async def run(self, ipam, state):
        assert (state.ids[self.one] == state.ids[self.other]) is self.same


@dataclass
class Left:
    """So many pools are there, and so many addresses are free in the last one."""

    pools: int | None = None
    free: int | None = None

    async def run(self, ipam, state):
        if self.pools is not None:
            assert len(await ipam.list_pools()) == self.pools
        if self.free is not None:
            assert (await ipam.counts(state.pool_id))[1] == self.free


class State:
    def __init__(self):
        self.pool_id, self.ids = "", []


SAMPLES = [
    *("192.168.0.1", "192.168.0.2", "192.168.0.3", "192.168.0.15", "192.168.0.16", "192.168.0.17", "192.168.0.31"),
    *("192.168.0.32", "192.168.0.33", "192.168.0.63", "192.168.0.64", "192.168.0.127", "192.168.0.128"),
    *("192.168.0.254", "192.168.0.255", "192.168.1.0", "192.168.1.1", "192.168.1.253", "192.168.1.254"),
]


def last_of(length):
    """Return the last usable address of 10.0.0.0 with this prefix length; /31 has two here (API 12)."""
    return ip_network(f"10.0.0.0/{length}")[-1 if length == 31 else -2]


ROWS = {
    "the first two addresses of a /16": [
        Pool("192.168.0.0/16"), Any("192.168.0.1/16"), Any("192.168.0.2/16"),
    ],
    "one pool in two spaces": [
        Pool("10.0.0.0/8", space="A"), Pool("10.0.0.0/8", space="B"), Same(0, 1, same=False),
    ],
    "what overlaps is refused": [
        Pool("10.0.0.0/8"),
        *(Pool(pool, refused="conflict") for pool in ("10.0.0.0/8", "10.128.0.0/9", "10.20.2.0/24")),
    ],
    "a sub-pool twice": [
        Pool("10.0.0.0/8"), Pool("10.0.0.0/8", "10.128.0.0/9"),
        Pool("10.0.0.0/8", "10.128.0.0/9", refused="conflict"),
    ],
    "masters that come with sub-pools are not tested for overlap": [
        Pool("10.0.0.0/8", "10.0.0.0/16"), Pool("10.0.0.0/16", "10.0.0.0/24"),
    ],
    "IPv6 overlaps too": [
        Pool("1003:1:2:3:4:5:6:0/112"), Pool("1003:1:2:3::/64", refused="conflict"),
    ],
    # there is no stored count: the pools are the count
    "a master and its sub-pool go one after the other, and come again under the same id": [
        Pool("10.0.0.0/8"), Pool("10.0.0.0/8", "10.0.0.0/16"), Left(pools=2),
        Release(1), Left(pools=1), Release(0), Left(pools=0),
        Pool("10.0.0.0/8"), Left(pools=1), Same(0, 2),
    ],
    "a pool released twice": [
        Pool("10.0.0.0/8"), Release(), Release(refused="not_found"),
    ],
    "a pool of IPAM's choice in a space that has none": [Pool(None, space="blue", refused="invalid")],
    "an address twice": [
        Pool("192.168.100.0/24"),
        Any("192.168.100.250/24", wanted="192.168.100.250"), Any(wanted="192.168.100.250", refused="conflict"),
    ],
    "all predefined pools taken and released, then 31 in turn without a repeat": [
        *(Pool(None) for _ in range(31)), Pool(None, refused="exhausted"), *(Release(n) for n in range(31)),
        *(step for _ in range(31) for step in (Pool(None), Release())),
        *(Same(31 + one, 31 + other, same=False) for one in range(31) for other in range(one)),
    ],
    "a sub-pool as large as its pool": [
        Pool("172.18.0.0/16", "172.18.0.0/16"), Any("172.18.0.1/16"),
    ],
    "a sub-pool to its last address": [
        Pool("172.28.0.0/16", "172.28.30.0/24"), Fill("172.28.30.255/16"), Any(refused="exhausted"),
        Free("172.28.30.97"), Any("172.28.30.97/16"),
    ],
    "a sub-pool that begins with the network address": [
        Pool("10.0.0.0/16", "10.0.0.0/24"), Fill("10.0.0.255/16"), Any(wanted="10.0.0.0", refused="invalid"),
        Free("10.0.0.79"), Any("10.0.0.79/16"),
    ],
    "the lowest free address": [
        Pool("10.2.0.0/16", "10.2.2.0/24"),
        Any("10.2.2.1/16", wanted="10.2.2.1"), Any("10.2.2.0/16"), Any("10.2.2.2/16"),
        Free("10.2.2.0"), Any("10.2.2.0/16"),
    ],
    "addresses in turn": [
        Pool("10.2.0.0/16", "10.2.2.0/24"),
        Any("10.2.2.1/16", wanted="10.2.2.1", serial=True), Any("10.2.2.0/16", serial=True),
        Any("10.2.2.2/16", serial=True), Free("10.2.2.0"), Any("10.2.2.3/16", serial=True),
        Free("10.2.2.1"), Any("10.2.2.4/16", serial=True),
    ],
    **{
        f"a /{length} to its last address": [
            Pool(f"10.0.0.0/{length}"), Fill(f"{last_of(length)}/{length}"), Left(free=0),
        ]
        for length in (23, 24, 25, 26, 27, 28, 29, 30, 31)
    },
    **{
        f"a /{length} is counted exactly": [
            Pool(f"10.0.0.0/{length}"), Left(free=2 ** (32 - length) - 2),
            Any(f"10.0.0.1/{length}"), Any(f"10.0.0.9/{length}", wanted="10.0.0.9"),
            Left(free=2 ** (32 - length) - 4),
        ]
        for length in range(8, 23)
    },
    **{
        f"{times} addresses of {pool}": [Pool(pool), Any(f"{last}/{pool.split('/')[1]}", times=times)]
        for pool, times, last in (
            ("192.168.59.0/24", 254, "192.168.59.254"),
            ("192.168.240.0/20", 255, "192.168.240.255"),
            ("192.168.0.0/16", 255, "192.168.0.255"),
            ("192.168.0.0/16", 256, "192.168.1.0"),
            ("10.16.0.0/16", 255, "10.16.0.255"),
            ("10.128.0.0/12", 255, "10.128.0.255"),
            ("10.0.0.0/8", 256, "10.0.1.0"),
            ("192.168.128.0/18", 1023, "192.168.131.255"),
        )
    },
    "each address of a full /23 that is freed is the next": [
        Pool("192.168.0.0/23"), Fill("192.168.1.254/23"),
        *(step for address in SAMPLES for step in (Free(address), Left(free=1), Any(f"{address}/23"))),
    ],
    "an address of another subnet": [Pool("192.168.0.0/24"), Any(wanted="192.168.1.7", refused="invalid")],
    "a sub-pool without a pool": [Pool(None, "10.0.0.0/24", refused="invalid")],
}  # fmt: skip


@pytest.mark.parametrize("row", ROWS)
async def test_row(ipam, row):
    state = State()
    for step in ROWS[row]:
        await step.run(ipam, state)


@pytest.mark.parametrize(
    ("kind", "body", "field"),
    [
        (RequestPool, b'{"space": ""}', "space"),
        (RequestPool, b'{"space": "a", "pool": "10.0.0.0"}', "pool"),
        (RequestPool, b'{"space": "a", "pool": "/24"}', "pool"),
        (RequestPool, b'{"space": "a", "pool": "10.0.0.0/8", "sub_pool": "10.0"}', "sub_pool"),
        (GetPool, b'{"pool_id": ""}', "pool_id"),
        (ReleaseAddress, b'{"pool_id": "a/10.0.0.0/8"}', "address"),
        (ReleaseAddress, b'{"pool_id": "a/10.0.0.0/8", "address": null}', "address"),
    ],
)
def test_syntax_is_checked_at_the_edge(kind, body, field):
    with pytest.raises(CnmError, match=re.escape(field)) as caught:
        decode(kind, body)
    assert caught.value.code == "invalid"


# held -> requested: the verdict. What is no pool by our contract (a size hint such as 0.0.0.0/1, every address) is
# refused as invalid, and whether it overlaps is asked of the same function that pools are compared with.
MATRIX = """
    10.0.0.0/8 11.0.0.0/8 ok
    74.0.0.0/7 9.111.99.72/30 ok
    110.192.0.0/10 16.0.0.0/10 ok
    10.0.0.0/8 10.0.0.0/8 no
    0.0.0.0/1 16.182.0.0/15 no
    16.0.0.0/4 17.11.66.0/23 no
    0.0.0.0/1 0.0.0.0/0 no
    64.0.0.0/6 64.0.0.0/3 no
    112.0.0.0/6 112.0.0.0/4 no
    96.0.0.0/3 0.0.0.0/1 no
    192.0.0.0/2 128.0.0.0/1 no
    95.0.0.0/8 92.0.0.0/6 no
    10.0.0.0/8 8.0.0.0/6 no
    25.173.144.0/20 0.0.0.0/0 no
    ::/0 f656:3484:c878:a05:e540:a6ed:4d70:3740/123 no
    8000::/1 8fe8:e7c4:5779::/49 no
    f000::/4 ffc7:6000::/19 no
    ::/2 ::/0 no
    ::/3 ::/1 no
    ::/6 ::/5 no
    c000::/2 8000::/1 no
    7c00::/6 ::/1 no
    cf80::/9 c000::/4 no
    ff77:93f8::/29 ::/0 no
    9287:2d20:dcb2:bc58:8f2c:b6b4:8ba3:9400/119 8000::/1 no
    3ea1:bfa9:8691:d1c6:8c46:519b:db6d:e700/120 3000::/4 no
"""


@pytest.mark.parametrize(("held", "asked", "verdict"), [line.split() for line in MATRIX.strip().splitlines()])
async def test_overlap(ipam, held, asked, verdict):
    assert overlap(ip_network(held), ip_network(asked)) is (verdict == "no")
    if is_special(held):
        with pytest.raises(Invalid):
            await ipam.pool(held)
        return
    await ipam.pool(held)
    if verdict == "ok":
        await ipam.pool(asked)
        return
    with pytest.raises(Invalid if is_special(asked) else Conflict):
        await ipam.pool(asked)


def is_special(prefix):
    """Say whether our contract has no such pool: a size hint, every address, multicast."""
    network = ip_network(prefix)
    return int(network.network_address) == 0 or network.is_multicast


def test_every_sample_is_an_address_of_the_pool():
    assert len(SAMPLES) == 19
    assert all(ip_address(address) in ip_network("192.168.0.0/23") for address in SAMPLES)
