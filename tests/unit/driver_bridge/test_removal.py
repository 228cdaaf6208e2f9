"""Links on their way out, and the frames that tell of new ones."""

import asyncio
import ipaddress
import threading

import pytest

from cnm.errors import Unavailable
from cnm.kernel.errors import KernelError
from cnm_driver_bridge.announce import ReplaceNeighbour, frame
from cnm_driver_bridge.removal import GROUP, Removals, deletions


class SlowKernel:
    """Deletes at once and answers late, as a kernel does; ``answer`` lets it answer."""

    def __init__(self, error=None):
        self.sent, self.answer, self._error = [], threading.Event(), error

    def send(self, *steps):
        self.sent.append([str(step) for step in steps])
        self.answer.wait(5)
        if self._error:
            raise self._error

    def is_gone(self, index):
        return any(f"index {index}" in step for steps in self.sent for step in steps)

    def never_gone(self, index):
        return False


def test_one_link_is_deleted_by_itself_and_several_as_a_group():
    assert [str(step) for step in deletions([5])] == ["ip link del index 5"]
    assert [str(step) for step in deletions([5, 6])] == [
        f"ip link set index 5 group {GROUP}",
        f"ip link set index 6 group {GROUP}",
        f"ip link del group {GROUP}",
    ]


async def test_a_deletion_is_done_when_the_link_is_gone_not_when_the_kernel_answers():
    kernel = SlowKernel()
    removals = Removals([kernel], is_gone=kernel.is_gone, look_s=0.001)
    await asyncio.wait_for(removals.delete(5), 2)
    assert not kernel.answer.is_set()
    kernel.answer.set()
    await removals.stop()


async def test_what_comes_while_the_kernel_is_slow_is_deleted_together():
    kernel = SlowKernel()
    removals = Removals([kernel], is_gone=kernel.is_gone, look_s=0.001)
    await removals.delete(1)
    waiting = [asyncio.ensure_future(removals.delete(index)) for index in (2, 3, 4)]
    await asyncio.sleep(0)
    kernel.answer.set()
    await asyncio.wait_for(asyncio.gather(*waiting), 2)
    assert kernel.sent[0] == ["ip link del index 1"]
    assert kernel.sent[1][-1] == f"ip link del group {GROUP}"
    assert len(kernel.sent) == 2
    await removals.stop()


@pytest.mark.parametrize(("number", "refused"), [(1, True), (19, False)])
async def test_a_refusal_is_told_but_an_absent_link_is_fine(number, refused):
    kernel = SlowKernel(KernelError(number, step="ip link del index 5"))
    kernel.answer.set()
    removals = Removals([kernel], is_gone=kernel.never_gone, look_s=0.001)
    if refused:
        with pytest.raises(Unavailable, match="ip link del index 5"):
            await removals.delete(5)
    else:
        await removals.delete(5)
    await removals.stop()


def test_a_gratuitous_arp_says_who_has_the_address():
    sent = frame("02:42:ac:00:00:02", ipaddress.ip_interface("10.1.0.2/24"))
    assert sent == bytes.fromhex(
        "ffffffffffff0242ac000002080600010800060400010242ac0000020a0100020000000000000a010002"
    )


def test_an_unsolicited_advertisement_has_a_right_checksum():
    sent = frame("02:42:ac:00:00:02", ipaddress.ip_interface("fd00:1::2/64"))
    payload, source, target = sent[54:], sent[22:38], sent[38:54]
    assert sent[:6] == bytes.fromhex("333300000001")
    assert sent[21] == 255
    pseudo = source + target + len(payload).to_bytes(4, "big") + b"\0\0\0\x3a"
    total = sum(
        int.from_bytes((pseudo + payload)[place : place + 2], "big") for place in range(0, 40 + len(payload), 2)
    )
    assert (total & 0xFFFF) + (total >> 16) == 0xFFFF


def test_the_hosts_own_entry_is_corrected_not_made():
    step = ReplaceNeighbour(7, ipaddress.ip_address("10.1.0.2"), "02:42:ac:00:00:02")
    assert str(step) == "ip neigh change 10.1.0.2 lladdr 02:42:ac:00:00:02 nud stale dev index 7"
    assert int.from_bytes(step.encode(1)[6:8], "little") & 0x400 == 0
