"""Settings of a namespace."""

import errno

import pytest

from cnm.errors import Unsupported
from cnm.kernel import sysctl
from cnm.kernel.errors import KernelError


def test_setting_is_changed_in_its_namespace_alone(host, container, shell):
    assert sysctl.read("net/ipv4/ip_forward", host) == sysctl.read("net/ipv4/ip_forward", container)
    sysctl.write("net/ipv4/ip_forward", 1, host)
    sysctl.write("net/ipv4/ip_forward", 0, container)
    assert sysctl.read("net/ipv4/ip_forward", host) == "1"
    assert sysctl.read("net/ipv4/ip_forward", container) == "0"
    assert shell.run(host, "cat", "/proc/sys/net/ipv4/ip_forward").strip() == "1"


def test_link_whose_name_has_a_dot_has_settings(host, shell):
    shell.run(host, "ip", "link", "add", "eth0.100", "type", "bridge")
    sysctl.write("net/ipv6/conf/eth0.100/accept_dad", 0, host)
    assert sysctl.read("net/ipv6/conf/eth0.100/accept_dad", host) == "0"


def test_absent_setting_is_unsupported_and_named(host):
    for call in (lambda: sysctl.read("net/ipv4/absent", host), lambda: sysctl.write("net/ipv4/absent", 1, host)):
        with pytest.raises(Unsupported, match="/proc/sys/net/ipv4/absent"):
            call()


def test_refused_value_is_told(host):
    with pytest.raises(KernelError, match="ip_default_ttl=banana") as caught:
        sysctl.write("net/ipv4/ip_default_ttl", "banana", host)
    assert caught.value.errno == errno.EINVAL


@pytest.mark.parametrize("name", ["kernel/hostname", "net/../kernel/hostname", "/proc/sys/net/ipv4/ip_forward"])
def test_only_settings_of_the_network_are_touched(name):
    with pytest.raises(ValueError, match="not a setting under net/"):
        sysctl.read(name)
