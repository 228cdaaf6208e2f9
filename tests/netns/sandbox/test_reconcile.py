"""A restarted worker, lost namespaces, strays; and what the worker tells of its node."""

import asyncio
import dataclasses
import socket
import subprocess
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest
from msgspec.structs import replace

from cnm.kernel import netns
from cnm.kernel.watch import watching_routes
from cnm.messages.message import decode_trusted, encode
from cnm.messages.namespace import EnsureSandbox, Gateway, HostsEntry, RemoveSandbox
from cnm.messages.node import Heartbeat, SandboxSlice
from cnm_sandbox import node_routes, probe
from cnm_sandbox.config import Settings
from cnm_sandbox.service import open_service


async def test_restarted_worker_finds_all_as_it_should_be(ask, spec, settings, slice_of):
    sandboxes = [spec(), spec(enable_ipv6=True, sysctls={"net.ipv4.ip_unprivileged_port_start": "0"})]
    for each in sandboxes:
        await ask(EnsureSandbox(sandbox=each))
    async with open_service(settings) as restarted:
        assert (await restarted.converge(slice_of(*sandboxes))).lines() == ()


async def test_lost_namespaces_and_files_are_made_again(service, spec, slice_of):
    wanted = spec()
    await service.converge(slice_of(wanted))
    subprocess.run(["umount", wanted.namespace], check=True)
    Path(wanted.hosts_path).unlink()
    done = await service.converge(slice_of(wanted))
    assert done.lines() == (
        f"{wanted.sandbox_id}: ip netns add {wanted.namespace}",
        f"{wanted.sandbox_id}: sysctl -w net/ipv6/conf/all/disable_ipv6=1",
        f"{wanted.sandbox_id}: ip link set dev lo up",
        f"{wanted.sandbox_id}: write {wanted.hosts_path}",
    )
    assert netns.is_namespace(Path(wanted.namespace))


@pytest.mark.parametrize(
    ("command", "repair"),
    [
        ("umount {path}", "ip netns add {path}"),
        ("rm {hosts}", "write {hosts}"),
        ("sed -i /ours/d {hosts}", "write {hosts}"),
        ("rm {resolv}", "write {resolv}"),
        ("nsenter --net={path} ip link set lo down", "ip link set dev lo up"),
        ("nsenter --net={path} ip addr del ::1/128 dev lo", "sysctl"),
        ("nsenter --net={path} ip route del default", "ip route"),
        ("nsenter --net={path} ip route replace default via 192.0.2.9", "ip route"),
    ],
)
async def test_what_changed_is_noticed_without_looking_at_everything(
    settings, spec, slice_of, shell, command, repair
):
    async with open_service(dataclasses.replace(settings, patrol_budget_s=0.0)) as service:
        wanted = spec(enable_ipv6=True, hosts=[HostsEntry(address=ip_address("192.0.2.2"), names=["ours"])])
        await service.converge(slice_of(wanted))
        for words in (
            "link add eth0 up type veth peer far",
            "link set far up",
            "addr add 192.0.2.2/24 dev eth0",
            "route add default via 192.0.2.1",
        ):
            shell.run(Path(wanted.namespace), "ip", *words.split())
        wanted = replace(wanted, gateways=[Gateway(ifname="eth0", address=ip_address("192.0.2.1"))])
        for _ in range(2):  # the second look is at what the first one wrote
            await service.converge(slice_of(wanted))
        assert (await service.converge(slice_of(wanted))).lines() == ()
        names = {"path": wanted.namespace, "hosts": wanted.hosts_path, "resolv": wanted.resolv_conf_path}
        subprocess.run(command.format(**names).split(), check=True)
        lines = (await service.converge(slice_of(wanted))).lines()
        assert any(repair.format(**names) in line for line in lines), lines
    netns.remove(Path(wanted.namespace))


async def test_strays_are_removed_and_strangers_kept(service, spec, settings, slice_of):
    mine, stray, busy = spec(), spec(), spec()
    await service.converge(slice_of(mine, stray, busy))
    strangers = [settings.namespaces / "1-overlay", settings.directories / "notes"]
    for path in strangers:
        path.touch()
    await service.converge(SandboxSlice(clock=2, sandboxes=[mine], busy=[busy.sandbox_id]))
    assert not Path(stray.namespace).exists()
    assert not Path(stray.hosts_path).parent.exists()
    for kept in (mine, busy):
        assert netns.is_namespace(Path(kept.namespace))
        assert Path(kept.hosts_path).exists()
    assert all(path.exists() for path in strangers)


async def test_what_a_command_touched_since_the_slice_was_asked_for_is_left_alone(service, ask, spec):
    made, gone = spec(), spec()
    await ask(EnsureSandbox(sandbox=gone))

    async def answer(_clock):
        await ask(EnsureSandbox(sandbox=made))
        await ask(RemoveSandbox(sandbox=gone))
        return SandboxSlice(clock=1, sandboxes=[gone])

    older = await service.fetch(answer, None)
    await service.converge(older)
    assert netns.is_namespace(Path(made.namespace))
    assert not Path(gone.namespace).exists()
    await service.converge(SandboxSlice(clock=2, sandboxes=[gone]))
    assert not Path(made.namespace).exists()
    assert netns.is_namespace(Path(gone.namespace))


async def test_unchanged_slice_changes_nothing(service, ask, spec):
    wanted = spec()
    await ask(EnsureSandbox(sandbox=wanted))
    for _ in range(2):
        await service.converge(SandboxSlice(clock=1, unchanged=True))
    assert netns.is_namespace(Path(wanted.namespace))


async def test_one_bad_sandbox_does_not_keep_the_others_from_being_repaired(service, spec, slice_of):
    vanished = spec(namespace="/nowhere/at/all", adopted=True)
    wanted = spec()
    done = await service.converge(slice_of(vanished, wanted))
    assert [sandbox_id for sandbox_id, _ in done.failed] == [vanished.sandbox_id]
    assert netns.is_namespace(Path(wanted.namespace))


async def test_adopted_namespace_keeps_its_own_default_route(service, spec, container, shell, slice_of):
    shell.run(container, "ip", "link", "add", "up0", "up", "type", "veth", "peer", "down0")
    shell.run(container, "ip", "link", "set", "down0", "up")
    shell.run(container, "ip", "addr", "add", "192.0.2.2/24", "dev", "up0")
    shell.run(container, "ip", "route", "add", "default", "via", "192.0.2.1")
    await service.converge(slice_of(spec(namespace=str(container), adopted=True)))
    assert shell.ip(container, "route", "show", "default")[0]["gateway"] == "192.0.2.1"


async def test_probe_tells_the_truth_and_leaves_nothing(service, shell, container):
    before = shell.run("/proc/self/ns/net", "ip", "-br", "link")
    found = await service.kernel()
    assert {"bridge", "veth", "vxlan", "macvlan", "ipvlan", "vlan", "dummy", "wireguard", "ipvs"} <= set(found)
    assert {"nftables", "br_netfilter", "sctp", "xfrm_esp"} <= set(found)
    for kind in ("bridge", "dummy", "wireguard", "veth"):
        done = subprocess.run(
            ["nsenter", f"--net={container}", "ip", "link", "add", f"x-{kind}", "type", kind],
            check=False, capture_output=True,
        )  # fmt: skip
        assert found[kind] == (done.returncode == 0), kind
    assert found["nftables"]
    assert shell.run("/proc/self/ns/net", "ip", "-br", "link") == before


async def test_probe_of_kinds_on_a_lower_link_agrees_with_ip(service, shell, container):
    found = await service.kernel()
    shell.run(container, "ip", "link", "add", "one", "type", "veth", "peer", "two")
    for kind, words in {
        "macvlan": "link one type macvlan mode bridge",
        "ipvlan": "link two type ipvlan mode l2",
        "vlan": "link one type vlan id 7",
        "vxlan": "type vxlan id 7 dstport 4789",
    }.items():
        done = subprocess.run(
            ["nsenter", f"--net={container}", "ip", "link", "add", f"x-{kind}", *words.split()],
            check=False, capture_output=True,
        )  # fmt: skip
        assert found[kind] == (done.returncode == 0), kind


def test_node_s_routes_are_used_but_for_ours(host, shell):
    for words in (
        "link add up0 up type veth peer down0",
        "link set down0 up",
        "addr add 192.0.2.2/24 dev up0",
        "addr add fd00:1::2/64 dev up0 nodad",
        "route add default via 192.0.2.1",
        "route add 10.8.0.0/16 via 192.0.2.9",
        "route add blackhole 10.7.0.0/16",
        "route add 0.0.0.0/1 via 192.0.2.9",
        "route add 100.64.0.0/10 via 192.0.2.9 table 52",
        "link add br-ours up alias cnm:net type bridge",
        "addr add 172.28.0.1/16 dev br-ours",
        "link add br-other up type bridge",
        "addr add 172.30.0.1/16 dev br-other",
    ):
        shell.run(host, "ip", *words.split())
    shell.run(host, "ip", "link", "set", "br-ours", "alias", "cnm:net")
    servers = [ip_address(each) for each in ("192.0.2.53", "127.0.0.53", "198.51.100.1", "fe80::1%up0")]
    with netns.inside(host):
        used, carrying = node_routes.read_used(servers)
        names = {socket.if_indextoname(index) for index in carrying}
        address = node_routes.read_address()
    assert [(str(each.prefix), each.by, each.device) for each in used] == [
        ("10.8.0.0/16", "route via 192.0.2.9 on up0", "up0"),
        ("100.64.0.0/10", "route via 192.0.2.9 on up0", "up0"),
        ("172.30.0.0/16", "route on br-other", "br-other"),
        ("192.0.2.0/24", "route on up0", "up0"),
        ("192.0.2.53/32", "name server", None),
        ("198.51.100.1/32", "name server", None),
        ("fd00:1::/64", "route on up0", "up0"),
    ]
    assert names == {"up0", "br-other"}
    assert address == ip_address("192.0.2.2")


async def test_change_of_a_route_is_noticed_at_once(host, shell):
    routes, links = asyncio.Queue(), asyncio.Queue()

    def heard(changed, indices):
        for route in changed:
            routes.put_nowait(str(route.destination))
        for index in indices:
            links.put_nowait(index)

    shell.run(host, "ip", "link", "set", "lo", "up")
    with watching_routes(heard, Path(host)):
        for words in (
            "route add 10.8.0.0/16 dev lo",
            "route del 10.8.0.0/16 dev lo",
            "-6 route add fd00:8::/64 dev lo",
        ):
            shell.run(host, "ip", *words.split())
            async with asyncio.timeout(5):
                while await routes.get() != words.split()[-3]:
                    pass
        shell.run(host, "ip", "link", "add", "index", "77", "name", "other", "type", "bridge")
        shell.run(host, "ip", "link", "del", "other")
        async with asyncio.timeout(5):
            for _ in range(2):
                while await links.get() != 77:
                    pass


def test_links_of_ours_are_no_strangers(host, shell):
    ours = "cnm:" + "a" * 64
    for words in ("link add ours type bridge", "link add other type bridge"):
        shell.run(host, "ip", *words.split())
    shell.run(host, "ip", "link", "set", "ours", "alias", ours)
    with netns.inside(host):
        index = {name: socket.if_nametoindex(name) for name in ("ours", "other")}
        assert node_routes.read_strangers([*index.values(), 999]) == {index["other"], 999}


def test_node_without_default_route_has_no_address(host, shell):
    shell.run(host, "ip", "link", "set", "lo", "up")
    with netns.inside(host):
        assert node_routes.read_address() is None
        assert node_routes.read_used([]) == ([], frozenset())


async def test_told_address_wins(tmp_path):
    told = ip_address("198.51.100.7")
    async with open_service(Settings(run_dir=tmp_path, node_address=told)) as service:
        assert await service.address() == told


async def test_heartbeat_tells_of_the_node(service):
    found = Heartbeat(node="n1", worker="w", version="1", pid=1, run_dir="/x", **await service.describe())
    assert found.kernel["veth"]
    assert ip_network("192.0.2.53/32") in [each.prefix for each in await service.used()]
    assert decode_trusted(Heartbeat, encode(found)) == found


def test_probe_returns_to_where_it_was():
    before = Path(netns.CURRENT).readlink()
    probe.probe()
    assert Path(netns.CURRENT).readlink() == before


@pytest.mark.parametrize("field", ["options", "sysctls"])
async def test_malformed_spec_is_reported_not_applied(service, spec, slice_of, field):
    bad = {"options": ["ndots:foo"], "sysctls": {"kernel.x": "1"}}
    wanted = replace(spec(), **{field: bad[field]})
    done = await service.converge(slice_of(wanted))
    assert field.rstrip("s") in done.failed[0][1]
    assert not Path(wanted.namespace).exists()
