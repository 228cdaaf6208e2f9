"""Rows S20 to S23: the exact text of hosts files."""

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnm.messages.namespace import HostsEntry
from cnm_sandbox.hosts import extend, merge, render

OWN4 = HostsEntry(address=ip_address("192.168.222.2"), names=["somehost.example.com", "somehost"])
OWN6 = HostsEntry(address=ip_address("fe90::2"), names=["somehost.example.com", "somehost"])
EXTRA = HostsEntry(address=ip_address("10.0.0.5"), names=["db.local"])


def test_default_file():
    assert render([], enable_ipv6=False) == "127.0.0.1\tlocalhost\n"


def test_file_of_a_dual_stack_sandbox():
    assert render([EXTRA, OWN4, OWN6], enable_ipv6=True) == (
        "127.0.0.1\tlocalhost\n"
        "::1\tlocalhost ip6-localhost ip6-loopback\n"
        "fe00::\tip6-localnet\n"
        "ff00::\tip6-mcastprefix\n"
        "ff02::1\tip6-allnodes\n"
        "ff02::2\tip6-allrouters\n"
        "10.0.0.5\tdb.local\n"
        "192.168.222.2\tsomehost.example.com somehost\n"
        "fe90::2\tsomehost.example.com somehost\n"
    )


@pytest.mark.parametrize(
    ("origin", "entries", "text"),
    [
        ("", [], "127.0.0.1\tlocalhost\n"),
        ("", [EXTRA], "127.0.0.1\tlocalhost\n10.0.0.5\tdb.local\n"),
        ("192.0.2.1 node", [], "192.0.2.1 node"),
        ("192.0.2.1 node", [EXTRA], "192.0.2.1 node\n10.0.0.5\tdb.local\n"),
        ("# a\n\n", [EXTRA], "# a\n\n10.0.0.5\tdb.local\n"),
    ],
)
def test_host_sandbox_has_the_node_s_file(origin, entries, text):
    assert extend(origin, entries) == text


@pytest.mark.parametrize(
    ("current", "ours", "merged"),
    [
        ("", [], "a\nb\n"),
        ("a\nold\n", ["a", "old"], "a\nb\n"),
        ("a\nold\nmine\n", ["a", "old"], "a\nb\nmine\n"),
        ("mine\na\n\n\nmine too", ["a"], "a\nb\nmine\nmine too\n"),
        ("a\nb\nmine\n", [], "a\nb\nmine\n"),
        ("a\na\nb\n", [], "a\nb\na\n"),
        ("prefixAndMore\n", ["prefix"], "a\nb\nprefixAndMore\n"),
    ],
)
def test_lines_of_a_user_are_kept(current, ours, merged):
    assert merge("a\nb\n", current, ours) == merged


lines = st.lists(st.sampled_from(["a", "b", "c", "# d", "e f"])).map(lambda each: "".join(f"{x}\n" for x in each))


@given(lines, lines, lines)
def test_merging_twice_is_merging_once(wanted, current, ours):
    once = merge(wanted, current, ours.splitlines())
    assert merge(wanted, once, wanted.splitlines()).startswith(wanted)
    assert merge(wanted, wanted, wanted.splitlines()) == wanted


def test_node_s_file_without_a_last_newline_is_not_glued_to_a_user_s_line():
    assert merge("a", "mine\n", []) == "a\nmine\n"
