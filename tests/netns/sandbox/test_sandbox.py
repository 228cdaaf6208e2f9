"""Rows S01, S03, S08, S12, S15, S20 to S24, R01, R04 to R08 on a real kernel."""

import os
import subprocess
from ipaddress import ip_address
from pathlib import Path

import pytest
from msgspec.structs import replace

from cnm.errors import Conflict, Invalid, Unsupported
from cnm.kernel import netns
from cnm.messages.namespace import EnsureSandbox, HostsEntry, RemoveSandbox

IPV6_OFF = "net/ipv6/conf/{}/disable_ipv6"


async def test_namespace_is_made_with_loopback_up_and_without_ipv6(ask, spec, shell, sysctl):
    wanted = spec()
    await ask(EnsureSandbox(sandbox=wanted))
    assert shell.run(wanted.namespace, "ping", "-c1", "-W1", "127.0.0.1")
    assert [link["ifname"] for link in shell.ip(wanted.namespace, "link")] == ["lo"]
    assert {sysctl(wanted.namespace, IPV6_OFF.format(name)) for name in ("all", "default", "lo")} == {"1"}
    shell.run(wanted.namespace, "ip", "link", "add", "v0", "up", "type", "veth", "peer", "v1")
    assert sysctl(wanted.namespace, IPV6_OFF.format("v0")) == "1"


async def test_ipv6_sandbox_has_the_loopback_address_and_leaves_interfaces_to_their_drivers(ask, spec, shell, sysctl):
    wanted = spec(enable_ipv6=True)
    await ask(EnsureSandbox(sandbox=wanted))
    assert shell.run(wanted.namespace, "ping", "-c1", "-W1", "::1")
    assert sysctl(wanted.namespace, IPV6_OFF.format("default")) == "1"
    assert Path(wanted.hosts_path).read_text().startswith("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost")


async def test_loopback_address_comes_and_goes_with_ipv6(ask, spec, shell):
    wanted = spec()

    async def ensure(enable_ipv6):
        await ask(EnsureSandbox(sandbox=replace(wanted, enable_ipv6=enable_ipv6)))
        lines = shell.run(wanted.namespace, "ip", "-6", "addr", "show", "dev", "lo")
        return "::1/128" in lines

    assert [await ensure(each) for each in (False, True, True, False)] == [False, True, True, False]


async def test_interface_gets_ipv6_by_its_own_setting(ask, spec, shell):
    wanted = spec()
    await ask(EnsureSandbox(sandbox=wanted))
    inside = wanted.namespace
    shell.run(inside, "ip", "link", "add", "v0", "type", "veth", "peer", "v1")
    shell.run(inside, "sh", "-c", "echo 0 > /proc/sys/net/ipv6/conf/v0/disable_ipv6")
    shell.run(inside, "ip", "addr", "add", "fd00:5::2/64", "dev", "v0", "nodad")
    shell.run(inside, "ip", "link", "set", "v0", "up")
    assert "fd00:5::2" in shell.run(inside, "ip", "-6", "addr", "show", "dev", "v0")


async def test_asking_again_changes_nothing(ask, spec):
    wanted = spec()
    await ask(EnsureSandbox(sandbox=wanted))
    before = [Path(path).stat() for path in (wanted.namespace, wanted.hosts_path, wanted.resolv_conf_path)]
    await ask(EnsureSandbox(sandbox=wanted))
    after = [Path(path).stat() for path in (wanted.namespace, wanted.hosts_path, wanted.resolv_conf_path)]
    assert [(each.st_ino, each.st_mtime_ns) for each in before] == [(each.st_ino, each.st_mtime_ns) for each in after]


async def test_namespace_and_files_are_gone_when_remove_replies(ask, spec, settings):
    wanted = spec()
    await ask(EnsureSandbox(sandbox=wanted))
    for _ in range(2):
        await ask(RemoveSandbox(sandbox=wanted))
        assert not Path(wanted.namespace).exists()
        assert wanted.namespace not in Path("/proc/self/mountinfo").read_text()
        assert not list(settings.directories.iterdir())


async def test_lost_namespace_is_made_again_over_the_file_it_left(ask, spec):
    wanted = spec()
    await ask(EnsureSandbox(sandbox=wanted))
    subprocess.run(["umount", wanted.namespace], check=True)
    assert not netns.is_namespace(Path(wanted.namespace))
    await ask(EnsureSandbox(sandbox=wanted))
    assert netns.is_namespace(Path(wanted.namespace))


async def test_foreign_file_at_the_namespace_s_path_is_refused_and_kept(ask, spec):
    wanted = spec()
    path = Path(wanted.namespace)
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    with pytest.raises(Conflict, match=f"{path} is in the way"):
        await ask(EnsureSandbox(sandbox=wanted))
    assert path.read_text() == "mine"


async def test_adopted_namespace_stays_when_its_sandbox_goes(ask, spec, container, shell, sysctl):
    wanted = spec(namespace=str(container), adopted=True)
    await ask(EnsureSandbox(sandbox=wanted))
    assert "UP" in shell.link(container, "lo")["flags"]
    assert sysctl(container, IPV6_OFF.format("default")) == "0"
    await ask(RemoveSandbox(sandbox=wanted))
    assert netns.is_namespace(container)
    assert not Path(wanted.hosts_path).exists()


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/nowhere/at/all", "does not exist"),
        ("/etc/passwd", "is not a network namespace"),
        ("/etc", "is not a network namespace"),
        ("/proc/self/ns/mnt", "is not a network namespace"),
        ("relative/path", "is not an absolute path"),
        ("/etc/passwd/below", "Not a directory"),
        ("/proc/self/ns/net", "is the node's own network namespace"),
        ("/proc/PID/ns/net", "is the node's own network namespace"),
    ],
)
async def test_path_that_cannot_be_adopted_is_refused_by_name(ask, spec, path, reason):
    path = path.replace("PID", str(os.getpid()))  # not in the test's name: that is the same at every run
    wanted = spec(namespace=path, adopted=True)
    with pytest.raises(Invalid) as refused:
        await ask(EnsureSandbox(sandbox=wanted))
    assert path in refused.value.message
    assert reason in refused.value.message
    assert refused.value.details["fields"][0]["field"] == "netns"
    assert not Path(wanted.hosts_path).exists()


async def test_sysctls_are_written(ask, spec, sysctl):
    wanted = spec(sysctls={"net.ipv4.ip_unprivileged_port_start": "80", "net.ipv4.ping_group_range": "0 7"})
    for _ in range(2):
        await ask(EnsureSandbox(sandbox=wanted))
        assert sysctl(wanted.namespace, "net/ipv4/ip_unprivileged_port_start") == "80"
        assert sysctl(wanted.namespace, "net/ipv4/ping_group_range").split() == ["0", "7"]


@pytest.mark.parametrize(
    ("name", "value", "error", "match"),
    [
        ("net.ipv4.no_such_thing", "1", Unsupported, "no_such_thing"),
        ("net.ipv4.ip_forward", "maybe", Invalid, "'maybe'"),
        ("kernel.shmmax", "1", Invalid, r"kernel\.shmmax"),
    ],
)
async def test_refused_sysctl_leaves_nothing_behind(ask, spec, settings, name, value, error, match):
    wanted = spec(sysctls={name: value})
    with pytest.raises(error, match=match):
        await ask(EnsureSandbox(sandbox=wanted))
    assert not Path(wanted.namespace).exists()
    assert not settings.directories.exists()


async def test_files_follow_the_sandbox_in_place(ask, spec):
    wanted = spec(hosts=[HostsEntry(address=ip_address("172.28.0.2"), names=["c1.example.com", "c1"])])
    await ask(EnsureSandbox(sandbox=wanted))
    hosts, resolv_conf = Path(wanted.hosts_path), Path(wanted.resolv_conf_path)
    assert hosts.read_text() == "127.0.0.1\tlocalhost\n172.28.0.2\tc1.example.com c1\n"
    assert resolv_conf.read_text().splitlines()[1:] == [
        "search example.com",
        "nameserver 127.0.0.11",
        "options timeout:2 ndots:0",
    ]
    assert hosts.stat().st_mode & 0o777 == 0o644
    inode = hosts.stat().st_ino
    await ask(EnsureSandbox(sandbox=replace(wanted, hosts=[], search=["."], options=["ndots:5"])))
    assert hosts.read_text() == "127.0.0.1\tlocalhost\n"
    assert resolv_conf.read_text().splitlines()[1:] == ["nameserver 127.0.0.11", "options ndots:5"]
    assert hosts.stat().st_ino == inode


async def test_edited_files_are_kept(ask, spec, settings):
    wanted = spec()
    await ask(EnsureSandbox(sandbox=wanted))
    Path(wanted.resolv_conf_path).write_text("nameserver 192.0.2.1\n")
    with Path(wanted.hosts_path).open("a") as hosts:
        hosts.write("192.0.2.9\tmine\n")
    settings.resolv_conf.write_text("search other.example\n")
    again = replace(wanted, hosts=[HostsEntry(address=ip_address("172.28.0.2"), names=["c1"])])
    await ask(EnsureSandbox(sandbox=again))
    assert Path(wanted.resolv_conf_path).read_text() == "nameserver 192.0.2.1\n"
    assert Path(wanted.hosts_path).read_text() == "127.0.0.1\tlocalhost\n172.28.0.2\tc1\n192.0.2.9\tmine\n"
    await ask(EnsureSandbox(sandbox=wanted))
    assert Path(wanted.hosts_path).read_text() == "127.0.0.1\tlocalhost\n192.0.2.9\tmine\n"


async def test_untouched_file_follows_the_node(ask, spec, settings):
    wanted = spec()
    await ask(EnsureSandbox(sandbox=wanted))
    settings.resolv_conf.write_text("nameserver 127.0.0.53\n")
    settings.systemd_resolv_conf.parent.mkdir()
    settings.systemd_resolv_conf.write_text("nameserver 192.0.2.53\nsearch real.example\n")
    await ask(EnsureSandbox(sandbox=wanted))
    assert "search real.example\n" in Path(wanted.resolv_conf_path).read_text()


async def test_host_sandbox_has_copies_of_the_node_s_files(ask, spec, settings):
    wanted = spec(namespace="host")
    settings.hosts.write_bytes(b"127.0.0.1\tlocalhost # caf\xe9\n\n")
    await ask(EnsureSandbox(sandbox=wanted))
    assert Path(wanted.hosts_path).read_bytes() == settings.hosts.read_bytes()
    assert Path(wanted.resolv_conf_path).read_bytes() == settings.resolv_conf.read_bytes()
    assert not settings.namespaces.exists()
    await ask(RemoveSandbox(sandbox=wanted))
    assert not list(settings.directories.iterdir())


async def test_host_sandbox_of_a_node_without_files_has_defaults(ask, spec, settings):
    wanted = spec(namespace="host")
    settings.hosts.unlink()
    settings.resolv_conf.unlink()
    await ask(EnsureSandbox(sandbox=wanted))
    assert Path(wanted.hosts_path).read_text() == "127.0.0.1\tlocalhost\n"
    assert not Path(wanted.resolv_conf_path).read_bytes()


async def test_container_sees_later_entries_through_its_bind_mount(ask, spec, tmp_path):
    wanted = spec()
    await ask(EnsureSandbox(sandbox=wanted))
    script = (
        f"touch {tmp_path}/hosts; mount --bind {wanted.hosts_path} {tmp_path}/hosts; "
        f"echo ready; read line; cat {tmp_path}/hosts"
    )
    container = subprocess.Popen(
        ["unshare", "--mount", "sh", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with container:
        assert container.stdout.readline() == "ready\n"
        later = replace(wanted, hosts=[HostsEntry(address=ip_address("172.28.0.2"), names=["c1"])])
        await ask(EnsureSandbox(sandbox=later))
        shown, _ = container.communicate("\n", timeout=10)
    assert shown == "127.0.0.1\tlocalhost\n172.28.0.2\tc1\n"
