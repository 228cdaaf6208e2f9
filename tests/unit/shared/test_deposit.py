"""Sockets that are deposited outlive who deposited them, with what waits in them."""

import asyncio
import itertools
import resource
import socket
from contextlib import closing
from pathlib import Path

import pytest

from cnm.deposit import Depositor, open_deposit


@pytest.fixture
async def deposit(tmp_path):
    with open_deposit(tmp_path / "d.sock") as made:
        yield made


@pytest.fixture
def depositor(tmp_path):
    made = Depositor(tmp_path / "d.sock", "tests")
    yield made
    made.close()


def bound():
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.bind(("127.0.0.1", 0))
    return made


def say(port, what):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.sendto(what, ("127.0.0.1", port))


async def test_what_waits_in_a_socket_is_read_by_who_takes_it(deposit, depositor):
    first = bound()
    port = first.getsockname()[1]
    await asyncio.to_thread(depositor.put, "a", [first])
    first.close()
    say(port, b"meanwhile")
    for _ in range(2):
        (again,) = await asyncio.to_thread(depositor.take, "a")
        with closing(again):
            assert again.getsockname()[1] == port
            if _ == 0:
                assert again.recv(99) == b"meanwhile"
    assert len(deposit) == 1, "what is taken stays"


async def test_what_is_dropped_or_replaced_is_closed(deposit, depositor):
    for act in (
        lambda: depositor.drop("a"),
        lambda: depositor.retain(["b"]),
        lambda: depositor.put("a", []),
        lambda: depositor.drop("a"),
    ):
        made = bound()
        address = made.getsockname()
        await asyncio.to_thread(depositor.put, "a", [made])
        made.close()
        await asyncio.to_thread(act)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
            other.bind(address)
        assert await asyncio.to_thread(depositor.take, "a") == ()


async def test_who_deposited_may_go_and_another_comes(deposit, depositor, tmp_path):
    with closing(bound()) as made:
        await asyncio.to_thread(depositor.put, "a", [made])
        depositor.close()
        other = Depositor(tmp_path / "d.sock", "tests")
        (found,) = await asyncio.to_thread(other.take, "a")
        assert found.getsockname() == made.getsockname()
        found.close()
        other.close()


async def test_nobody_who_keeps_anything_is_no_error(depositor, tmp_path):
    with closing(bound()) as made:
        depositor.put("a", [made])
        assert depositor.take("a") == ()
        with open_deposit(tmp_path / "d.sock"):
            await asyncio.to_thread(depositor.put, "a", [made])
            (found,) = await asyncio.to_thread(depositor.take, "a")
            found.close()
        assert not (tmp_path / "d.sock").exists()
        assert await asyncio.to_thread(depositor.take, "a") == ()
        with open_deposit(tmp_path / "d.sock") as again:
            assert await asyncio.to_thread(depositor.take, "a") == (), "what it kept went with it"
            assert len(again) == 0


async def test_strangers_words_end_their_connection_alone_and_leave_no_descriptor(deposit, depositor, tmp_path):
    def files():
        return len(list(Path("/proc/self/fd").iterdir()))

    await asyncio.to_thread(depositor.take, "nothing")
    before = files()
    for words in (b"x", b'{"verb": "eat", "names": []}', b'{"verb": "put", "names": []}', b"[" * 5000):
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as stranger, closing(bound()) as made:
            stranger.settimeout(2)
            stranger.connect(str(tmp_path / "d.sock"))
            await asyncio.to_thread(socket.send_fds, stranger, [words], [made.fileno()])
            await asyncio.to_thread(stranger.recv, 99)
    async with asyncio.timeout(2):
        while files() != before:  # the end of the last stranger has not been heard of yet
            await asyncio.sleep(0)
    assert len(deposit) == 0


async def test_only_root_may_ask(deposit, tmp_path):
    assert (tmp_path / "d.sock").stat().st_mode & 0o777 == 0o600


async def test_thousands_of_names_can_be_said_at_once(deposit, depositor):
    with closing(bound()) as made:
        await asyncio.to_thread(depositor.put, "0" * 64, [made])
    await asyncio.to_thread(depositor.retain, [f"{number:064}" for number in range(5000)])
    assert len(deposit) == 1
    await asyncio.to_thread(depositor.retain, [])
    assert len(deposit) == 0


async def test_owners_have_names_of_their_own(deposit, depositor, tmp_path):
    other = Depositor(tmp_path / "d.sock", "others")
    with closing(other), closing(bound()) as ours, closing(bound()) as its:
        await asyncio.to_thread(depositor.put, "a", [ours])
        await asyncio.to_thread(other.put, "a", [its])
        await asyncio.to_thread(other.retain, [])
        assert len(deposit) == 1
        (again,) = await asyncio.to_thread(depositor.take, "a")
        with closing(again):
            assert again.getsockname() == ours.getsockname()


async def test_a_keeper_without_room_for_all_keeps_none_of_them(deposit, depositor):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    sockets = [bound() for _ in range(20)]
    await asyncio.to_thread(depositor.put, "a", sockets[:1])
    used = {int(each.name) for each in Path("/proc/self/fd").iterdir()}
    room_for_five = next(limit for limit in itertools.count(5) if limit - len(used & set(range(limit))) == 5)
    resource.setrlimit(resource.RLIMIT_NOFILE, (room_for_five, hard))
    try:
        await asyncio.to_thread(depositor.put, "a", sockets)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for each in sockets:
            each.close()
    assert len(deposit) == 0


async def test_names_of_thousands_are_one_message(deposit, depositor):
    with closing(bound()) as one:
        await asyncio.to_thread(depositor.put, "a", [one])
        await asyncio.to_thread(depositor.retain, [f"{number:064}" for number in range(10_000)])
    assert len(deposit) == 0
