"""Rows S01, S03 and S08 as far as they are decisions, and which settings a sandbox may have."""

import pytest

from cnm.messages.namespace import SandboxSpec
from cnm_sandbox.namespace import ABSENT, Observed, plan, sysctl_faults, sysctl_path

PATH = "/run/cnm/netns/aaaaaaaaaaaa"
ADD = f"ip netns add {PATH}"
UP = "ip link set dev lo up"


def spec(**changes):
    told = {"sandbox_id": "a" * 64, "name": "c1", "namespace": PATH, "hosts_path": "/h", "resolv_conf_path": "/r"}
    return SandboxSpec(**(told | changes))


def set_(name, value):
    return f"sysctl -w net/ipv6/conf/{name}/disable_ipv6={value}"


STANDING4 = Observed(exists=True, loopback_up=True)
STANDING6 = Observed(exists=True, loopback_up=True, loopback_ipv6=True)


@pytest.mark.parametrize(
    ("changes", "observed", "steps"),
    [
        ({}, ABSENT, [ADD, set_("all", 1), UP]),
        ({"enable_ipv6": True}, ABSENT, [ADD, set_("default", 1), UP]),
        ({}, STANDING4, []),
        ({"enable_ipv6": True}, STANDING6, []),
        ({"enable_ipv6": True}, STANDING4, [set_("lo", 0)]),
        ({}, STANDING6, [set_("lo", 1)]),
        ({}, Observed(exists=True), [UP]),
        ({"adopted": True}, STANDING6, []),
        ({"adopted": True, "enable_ipv6": True}, STANDING4, [set_("lo", 0)]),
        ({"adopted": True}, Observed(exists=True), [UP]),
    ],
)
def test_plan(changes, observed, steps):
    assert [str(step) for step in plan(spec(**changes), observed)] == steps


def test_settings_are_written_where_they_differ():
    told = spec(sysctls={"net.ipv4.ping_group_range": "0 7", "net.core.somaxconn": "9"})
    observed = Observed(
        exists=True, loopback_up=True, sysctls={"net/ipv4/ping_group_range": "0\t7", "net/core/somaxconn": "8"}
    )
    assert [str(step) for step in plan(told, observed)] == ["sysctl -w net/core/somaxconn=9"]


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("net.ipv4.ip_forward", "net/ipv4/ip_forward"),
        ("net/ipv4/ip_forward", "net/ipv4/ip_forward"),
        ("net.ipv4.conf.eth0/100.rp_filter", "net/ipv4/conf/eth0.100/rp_filter"),
        ("net/ipv4/conf/eth0.100/rp_filter", "net/ipv4/conf/eth0.100/rp_filter"),
    ],
)
def test_sysctl_names_have_two_forms(name, path):
    assert sysctl_path(name) == path
    assert sysctl_faults({name: "1"}, host=False) == ()


@pytest.mark.parametrize(
    "name",
    [
        "kernel.shmmax", "net", "net.", "net.ipv4", "net..ipv4.x", "net.ipv4/../../kernel/x", "net/ipv4/../../x",
        "net/../kernel/shmmax", "netfilter.a.b", "net.ipv4.ip_forward ", "", "net.ipv4.a\n", "net.ipv4.//.x",
    ],
)  # fmt: skip
def test_other_names_are_faults(name):
    (fault,) = sysctl_faults({name: "1"}, host=False)
    assert fault.field == f"sysctls.{name}"
    assert repr(name) in fault.reason


@pytest.mark.parametrize("value", ["", "  ", "1\n2", "1\0"])
def test_value_is_one_line(value):
    (fault,) = sysctl_faults({"net.ipv4.ip_forward": value}, host=False)
    assert repr(value) in fault.reason


def test_host_sandbox_may_not_set_the_node_s():
    (fault,) = sysctl_faults({"net.ipv4.ip_forward": "1"}, host=True)
    assert "the node itself" in fault.reason
