"""Gateways, and what each worker is told."""

from datetime import UTC, datetime
from ipaddress import ip_address, ip_interface, ip_network

from cnm.messages.ipam import AllocatedPool
from cnm.messages.sandbox import ExtraHost, PortRequest, SandboxDns
from cnm_controller.attach import attach_steps, choose_ifname, detach_steps, route_steps
from cnm_controller.documents import EndpointBody, NetworkBody, SandboxBody
from cnm_controller.specs import (
    Joined,
    attachment,
    bridge_network,
    leading_out,
    publish,
    resolver_sandbox,
    sandbox_spec,
)

NOW = datetime(2026, 1, 2, tzinfo=UTC)


def network(name: str, subnet: str, *, internal: bool = False, **more) -> NetworkBody:
    prefix = ip_network(subnet)
    return NetworkBody(
        id=name.ljust(64, "0"),
        name=name,
        driver="bridge",
        scope="local",
        created=NOW,
        internal=internal,
        pools=[AllocatedPool(pool_id=f"LocalDefault/{subnet}", subnet=prefix, gateway=prefix[1])],
        **more,
    )


def joined(on: NetworkBody, number: int, *, priority: int = 0, ifname: str = "eth0") -> Joined:
    subnet = on.pools[0].subnet
    address = ip_interface(f"{subnet[number]}/{subnet.prefixlen}")
    endpoint = EndpointBody(
        id=f"e{on.name}{number}".ljust(64, "0"),
        name="c1",
        network_id=on.id,
        created=NOW,
        mac_address="02:00:00:00:00:01",
        ipv4=address if address.version == 4 else None,
        ipv6=address if address.version == 6 else None,
        sandbox_id="5" * 64,
        sandbox_name="c1",
        node="n1",
        ifname=ifname,
        gw_priority=priority,
    )
    return Joined(endpoint=endpoint, network=on)


def sandbox(**more) -> SandboxBody:
    return SandboxBody(
        id="5" * 64,
        name="c1",
        node="n1",
        created=NOW,
        key="/run/cnm/netns/555555555555",
        hosts_path="/h",
        resolv_conf_path="/r",
        hostname="c1",
        **more,
    )


A = network("a", "10.1.0.0/16")
B = network("b", "10.2.0.0/16")
INTERNAL = network("internal", "10.3.0.0/16", internal=True)
SIX = network("six", "fd00::/64", enable_ipv6=True, enable_ipv4=False)


def test_ties_in_priority_go_by_network_name():
    assert leading_out([joined(B, 2), joined(A, 2)], 4).network is A


def test_higher_priority_leads_out():
    assert leading_out([joined(A, 2), joined(B, 2, priority=1)], 4).network is B


def test_internal_networks_never_lead_out():
    assert leading_out([joined(INTERNAL, 2, priority=9)], 4) is None
    assert leading_out([joined(INTERNAL, 2, priority=9), joined(A, 2)], 4).network is A


def test_each_family_is_led_out_by_itself():
    both = [joined(A, 2), joined(SIX, 2)]

    assert leading_out(both, 4).network is A
    assert leading_out(both, 6).network is SIX


def test_only_the_endpoint_that_leads_out_sets_the_default_route():
    both = [joined(A, 2), joined(B, 2, ifname="eth1")]

    assert attachment(sandbox(), both[0], both).default_via == [ip_address("10.1.0.1")]
    assert attachment(sandbox(), both[1], both).default_via == []


def test_lowest_free_number_names_the_interface():
    there = [joined(A, 2, ifname="eth0"), joined(B, 2, ifname="eth2")]

    assert choose_ifname(INTERNAL, None, there) == "eth1"
    assert choose_ifname(INTERNAL, None, []) == "eth0"
    assert choose_ifname(INTERNAL, "lan0", there) == "lan0"


def test_network_options_choose_the_interface_prefix():
    custom = network("c", "10.4.0.0/16", options={"com.docker.network.container_iface_prefix": "net"})

    assert choose_ifname(custom, None, [joined(A, 2)]) == "net0"


def test_hosts_hold_extra_hosts_and_own_addresses():
    box = sandbox(
        domainname="example",
        extra_hosts=[ExtraHost(name="db", ip="10.0.0.5"), ExtraHost(name="node", ip="host-gateway")],
    )
    lines = [(str(entry.address), entry.names) for entry in sandbox_spec(box, [joined(A, 2)]).hosts]

    assert lines == [
        ("10.0.0.5", ["db"]),
        ("10.1.0.1", ["node"]),
        ("10.1.0.2", ["c1.example", "c1"]),
    ]


def test_host_gateway_has_no_line_before_there_is_a_gateway():
    box = sandbox(extra_hosts=[ExtraHost(name="node", ip="host-gateway")])

    assert sandbox_spec(box, []).hosts == []


def test_ports_lead_to_the_endpoint_that_leads_out():
    box = sandbox(requests=[PortRequest(container_port=80, host_port=8080)])

    assert publish(box, []) is None
    assert publish(box, [joined(INTERNAL, 2)]) is None
    assert str(publish(box, [joined(B, 2), joined(A, 7)]).ipv4_address) == "10.1.0.7"


def test_the_default_binding_address_is_the_network_s():
    on = network("d", "10.5.0.0/16", options={"com.docker.network.bridge.host_binding_ipv4": "127.0.0.1"})
    box = sandbox(requests=[PortRequest(container_port=80), PortRequest(container_port=81, host_ip=ip_address("::"))])

    wanted = publish(box, [joined(on, 2)])

    assert [str(request.host_ip) for request in wanted.requests] == ["127.0.0.1", "::"]


def test_inhibit_ipv4_leaves_the_bridge_without_an_address():
    on = network("i", "10.6.0.0/16", options={"com.docker.network.bridge.inhibit_ipv4": "true"})

    assert bridge_network(on).bridge_addresses == []


def test_the_resolver_is_told_whether_a_sandbox_gets_out():
    assert resolver_sandbox(sandbox(), [joined(A, 2)]).external
    assert not resolver_sandbox(sandbox(), [joined(INTERNAL, 2)]).external
    assert resolver_sandbox(sandbox(dns=SandboxDns(options=["ndots:1"])), []).ndots_set


def test_an_attach_that_moves_no_gateway_leaves_the_ports_alone():
    box = sandbox(requests=[PortRequest(container_port=80)])
    names = {type(step.command).__name__ for step in attach_steps(box, [joined(A, 2)], joined(B, 2, ifname="eth1"))}

    assert names == {"PlugEndpoint", "UpdateNames", "EnsureSandbox"}


def test_an_attach_that_moves_the_gateway_moves_the_ports():
    box = sandbox(requests=[PortRequest(container_port=80)])
    new = joined(B, 2, ifname="eth1", priority=5)
    names = {type(step.command).__name__ for step in attach_steps(box, [joined(A, 2)], new)}

    assert names == {"PlugEndpoint", "UpdateNames", "EnsureSandbox", "PublishPorts"}


def test_leaving_the_last_way_out_closes_the_ports():
    box = sandbox(requests=[PortRequest(container_port=80)])
    only = joined(A, 2)
    names = {type(step.command).__name__ for step in detach_steps(box, [only], {only.endpoint.id})}

    assert names == {"UnplugEndpoint", "UpdateNames", "EnsureSandbox", "UnpublishPorts"}
    assert route_steps(box, [only], {only.endpoint.id}) == ()


def test_the_default_route_moves_to_the_next_when_the_first_leaves():
    first, second = joined(A, 2), joined(B, 2, ifname="eth1")
    (step,) = route_steps(sandbox(), [first, second], {first.endpoint.id})

    assert [(gateway.ifname, str(gateway.address)) for gateway in step.command.gateways] == [("eth1", "10.2.0.1")]
