"""Namespaces by path, on a real kernel."""

import asyncio
import os
import socket
import threading
from pathlib import Path

import pytest

from cnm.kernel import netns
from cnm.kernel.thread import NetlinkThread


def current():
    return Path(netns.CURRENT).readlink()


def test_new_namespace_holds_only_loopback_that_is_down(host, shell):
    assert netns.is_namespace(host)
    (loopback,) = shell.ip(host, "link", "show")
    assert loopback["ifname"] == "lo"
    assert "UP" not in loopback["flags"]


def test_making_a_namespace_leaves_the_thread_where_it_was(tmp_path, namespace):
    before = current()
    namespace("a")
    assert current() == before


def test_namespace_is_not_made_twice_at_one_path(host):
    inode = host.stat().st_ino
    with pytest.raises(FileExistsError):
        netns.create(host)
    assert host.stat().st_ino == inode


def test_file_that_a_crash_left_is_used(tmp_path):
    path = tmp_path / "left"
    path.touch()
    netns.create(path)
    assert netns.is_namespace(path)
    netns.remove(path)


def test_file_with_content_is_not_covered(tmp_path):
    path = tmp_path / "precious"
    path.write_text("content")
    with pytest.raises(FileExistsError):
        netns.create(path)
    assert path.read_text() == "content"


def test_removing_takes_mount_and_file_and_may_be_repeated(tmp_path):
    path = tmp_path / "deep" / "er" / "ns"
    netns.create(path)
    netns.remove(path)
    netns.remove(path)
    assert not path.exists()
    assert str(path) not in Path("/proc/self/mountinfo").read_text()


def test_only_a_network_namespace_is_one(tmp_path):
    plain = tmp_path / "plain"
    plain.touch()
    assert not netns.is_namespace(plain)
    assert not netns.is_namespace(tmp_path / "absent")
    assert not netns.is_namespace(Path("/proc/self/ns/mnt"))
    assert netns.is_namespace(Path("/proc/self/ns/net"))


def test_inside_moves_only_this_thread_and_only_for_the_block(host):
    home = current()
    elsewhere = []
    with netns.inside(host):
        assert current() != home
        assert socket.if_nameindex() == [(1, "lo")]
        other = threading.Thread(target=lambda: elsewhere.append(current()))
        with netns.inside(host):
            pass
        assert current() != home
    other.start()
    other.join()
    assert current() == home
    assert elsewhere == [home]


def test_inside_takes_a_descriptor_and_does_not_close_it(host):
    home = current()
    fd = os.open(host, os.O_RDONLY)
    with netns.inside(fd):
        assert current() != home
    os.fstat(fd)
    os.close(fd)


def test_error_inside_still_leads_back(host):
    home = current()
    with pytest.raises(RuntimeError), netns.inside(host):
        raise RuntimeError
    assert current() == home


@pytest.mark.parametrize(("path", "error"), [("/nowhere/at/all", FileNotFoundError), ("/etc/passwd", OSError)])
def test_what_is_no_namespace_is_not_entered(path, error):
    home = current()
    with pytest.raises(error), netns.inside(Path(path)):
        pass
    assert current() == home


def test_entering_leaks_no_descriptor(host):
    count = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(5):
        with netns.inside(host):
            pass
        netns.open_socket(host, socket.AF_INET, socket.SOCK_DGRAM).close()
    assert len(list(Path("/proc/self/fd").iterdir())) == count


def test_socket_belongs_to_its_namespace_wherever_it_is_used(host, shell):
    shell.run(host, "ip", "link", "set", "lo", "up")
    shell.run(host, "ip", "addr", "add", "192.0.2.7/32", "dev", "lo")
    with netns.open_socket(host, socket.AF_INET, socket.SOCK_DGRAM) as here:
        here.bind(("192.0.2.7", 0))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as outside, pytest.raises(OSError, match="Cannot assign"):
        outside.bind(("192.0.2.7", 0))


async def test_netlink_thread_runs_one_after_another_off_the_loop():
    seen = []

    def note(number):
        seen.append((number, threading.current_thread().name))
        return number * 2

    async with NetlinkThread() as thread:
        results = await asyncio.gather(*(thread.run(note, number) for number in range(20)))
    assert results == [number * 2 for number in range(20)]
    assert [number for number, _ in seen] == list(range(20))
    assert len({name for _, name in seen}) == 1
    assert threading.current_thread().name not in {name for _, name in seen}


async def test_netlink_thread_hands_on_errors_and_stops_twice():
    thread = NetlinkThread()
    with pytest.raises(ZeroDivisionError):
        await thread.run(lambda: 1 // 0)
    await thread.stop()
    await thread.stop()
    with pytest.raises(RuntimeError):
        await thread.run(print)
