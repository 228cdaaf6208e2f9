"""Attributes, acknowledgements and errors as bytes."""

import errno
import struct

from hypothesis import given
from hypothesis import strategies as st

from cnm.kernel.errors import KernelError, NftError
from cnm.kernel.netlink import (
    NLM_F_ACK_TLVS,
    NLM_F_CAPPED,
    NLMSG_ERROR,
    Reply,
    attribute,
    attributes,
    failure,
    message,
    messages,
    nest,
    text,
)


@given(st.dictionaries(st.integers(1, 200), st.binary(max_size=40), max_size=8))
def test_attributes_are_read_back(wanted):
    assert attributes(b"".join(attribute(kind, payload) for kind, payload in wanted.items())) == wanted


@given(
    st.lists(st.tuples(st.integers(0, 65535), st.binary(max_size=6).map(lambda raw: attribute(1, raw))), max_size=5)
)
def test_messages_are_split(wanted):
    datagram = b"".join(message(kind, 5, place, body) for place, (kind, body) in enumerate(wanted))
    assert list(messages(datagram)) == [Reply(kind, 5, place, body) for place, (kind, body) in enumerate(wanted)]


@given(st.binary(max_size=64))
def test_garbage_is_survived(raw):
    attributes(raw)
    list(messages(raw))


def test_nested_attributes_are_read_back():
    assert attributes(attributes(nest(18, text(1, "veth")))[18]) == {1: b"veth\0"}


def test_explanation_of_a_failure_is_read():
    words = text(1, "mtu greater than device maximum")
    capped = Reply(NLMSG_ERROR, NLM_F_ACK_TLVS | NLM_F_CAPPED, 1, struct.pack("=i16x", -errno.EINVAL) + words)
    whole = Reply(NLMSG_ERROR, NLM_F_ACK_TLVS, 1, struct.pack("=iI12x", -errno.EINVAL, 21) + b"12345\0\0\0" + words)
    for reply in (capped, whole):
        assert failure(reply) == (errno.EINVAL, "mtu greater than device maximum")
    assert failure(Reply(NLMSG_ERROR, 0, 1, bytes(20))) == (0, "")


def test_error_names_step_explanation_and_errno():
    error = KernelError(errno.EINVAL, step="ip link set dev br0 mtu 70000", reason="mtu greater than device maximum")
    assert str(error) == "ip link set dev br0 mtu 70000: mtu greater than device maximum: Invalid argument"
    assert error.errno == errno.EINVAL
    assert str(NftError(errno.ENOENT, step="nft", reason="Error: No such file")) == "Error: No such file"
