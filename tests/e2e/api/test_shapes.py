"""What is shown has the keys, types and formats of the contract (API 2 to 7), wherever it is shown."""

import ipaddress
import re
from datetime import UTC, datetime, timedelta

import pytest

ID = re.compile(r"[0-9a-f]{64}")
MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|\+00:00)")

OPTIONAL = {"warnings"}


class Nullable:
    """Null, or what is inside."""

    def __init__(self, inner):
        self.inner = inner


def an_id(value):
    assert ID.fullmatch(value), value


def a_mac(value):
    assert MAC.fullmatch(value), value
    assert int(value[:2], 16) & 1 == 0


def a_time(value):
    assert TIME.fullmatch(value), value


def an_address(value):
    assert str(ipaddress.ip_address(value)) == value


def a_prefix(value):
    assert str(ipaddress.ip_network(value)) == value


def an_interface(value):
    assert "/" in value
    assert str(ipaddress.ip_interface(value)) == value


def texts(value):
    assert isinstance(value, dict)
    assert all(isinstance(each, str) for each in value.values())


def a_count(value):
    assert isinstance(value, (int, str))
    assert not isinstance(value, bool)
    assert isinstance(value, str) == (int(value) > 2**53)


POOL = {
    "subnet": a_prefix, "range": Nullable(a_prefix), "gateway": Nullable(an_address), "aux_addresses": dict,
    "in_use": a_count, "available": a_count,
}  # fmt: skip
LINE = {
    "id": an_id, "name": str, "sandbox": Nullable(an_id), "mac_address": a_mac,
    "ipv4_address": Nullable(an_interface), "ipv6_address": Nullable(an_interface),
}  # fmt: skip
NETWORK = {
    "id": an_id, "name": str, "driver": str, "scope": str, "created": a_time, "internal": bool, "attachable": bool,
    "ingress": bool, "config_only": bool, "config_from": Nullable(str), "enable_ipv4": bool, "enable_ipv6": bool,
    "ipam": {"driver": str, "options": texts, "pools": [POOL]}, "options": texts, "labels": texts, "revision": int,
    "endpoints": [LINE],
}  # fmt: skip
ENDPOINT = {
    "id": an_id, "name": str, "network": an_id, "sandbox": Nullable(an_id), "node": Nullable(str),
    "ipv4_address": Nullable(an_interface), "ipv6_address": Nullable(an_interface), "mac_address": a_mac,
    "ifname": Nullable(str), "ready": bool,
    "gateway_ipv4": Nullable(an_address), "gateway_ipv6": Nullable(an_address),
    "aliases": [str], "dns_names": [str], "state": str, "driver_info": {"host_ifname": Nullable(str)},
    "labels": texts, "revision": int,
}  # fmt: skip
PORT = {"container_port": int, "protocol": str, "host_ip": an_address, "host_port": int, "container_ip": an_address}
SANDBOX = {
    "id": an_id, "name": str, "node": str, "netns": Nullable(str), "hostname": str, "domainname": str,
    "extra_hosts": [{"name": str, "ip": str}], "dns": {"servers": [an_address], "search": [str], "options": [str]},
    "exposed_ports": [str], "use_default_sandbox": bool, "sysctls": texts, "labels": texts,
    "key": str, "hosts_path": str, "resolv_conf_path": str, "endpoints": [ENDPOINT],
    "gateway_ipv4": Nullable(an_id), "gateway_ipv6": Nullable(an_id), "ports": [PORT],
}  # fmt: skip
NODE = {
    "name": str, "address": Nullable(an_address), "workers": [{"name": str}], "state": str, "kernel": dict,
    "sandboxes": int, "endpoints": int,
}  # fmt: skip
OWN_POOL = {
    "pool_id": str, "pool": a_prefix, "options": texts, "in_use": a_count, "available": a_count, "space": str,
    "sub_pool": Nullable(a_prefix),
}  # fmt: skip


def check(shape, value, where="reply"):
    """Compare a value with a shape; further keys are an addition, which the contract allows."""
    match shape:
        case Nullable():
            if value is not None:
                check(shape.inner, value, where)
        case dict():
            assert isinstance(value, dict), where
            assert not set(shape) - set(value), f"{where}: lacks {set(shape) - set(value)}"
            for key, inner in shape.items():
                check(inner, value[key], f"{where}.{key}")
        case list():
            assert isinstance(value, list), where
            for index, item in enumerate(value):
                check(shape[0], item, f"{where}[{index}]")
        case type():
            assert isinstance(value, shape), f"{where}: {value!r}"
            assert shape is bool or not isinstance(value, bool), f"{where}: {value!r}"
        case _:
            assert isinstance(value, (str, dict, int)), f"{where}: {value!r}"
            shape(value)


@pytest.fixture
def network(make):
    made = make.network(
        enable_ipv6=True,
        attachable=True,
        labels={"tier": "front"},
        options={"com.docker.network.driver.mtu": 1400, "com.docker.network.bridge.enable_icc": True},
        ipam={
            "options": {"com.docker.network.ipam.serial": False},
            "pools": [
                {"subnet": "172.28.0.0/16", "range": "172.28.5.0/24", "gateway": "172.28.5.254",
                 "aux_addresses": {"router": "172.28.1.5", "inside": "172.28.5.1"}},
                {"subnet": "fd00:28::/64"},
            ],
        },
    )  # fmt: skip
    made.pop("warnings", None)  # the first network of a node tells of forwarding, which was set
    return made


def test_a_network_is_shown_as_the_contract_says(api, make, network):
    check(NETWORK, network)
    assert datetime.now(UTC) - datetime.fromisoformat(network["created"]) < timedelta(seconds=30)
    ipv4, ipv6 = network["ipam"]["pools"]
    assert ipv4 == {
        "subnet": "172.28.0.0/16", "range": "172.28.5.0/24", "gateway": "172.28.5.254",
        "aux_addresses": {"router": "172.28.1.5", "inside": "172.28.5.1"}, "in_use": 2, "available": 254,
    }  # fmt: skip
    assert ipv6["range"] is None
    assert ipv6["gateway"] == "fd00:28::1"
    assert ipv6["in_use"] == 1
    assert isinstance(ipv6["available"], str)
    assert 2**64 - 4 <= int(ipv6["available"]) < 2**64
    assert network["options"] == {
        "com.docker.network.driver.mtu": "1400",
        "com.docker.network.bridge.enable_icc": "true",
    }
    assert network["revision"] == 1
    assert network["driver"] == "bridge"
    assert network["scope"] == "local"
    assert network["endpoints"] == []
    assert network["config_from"] is None

    endpoint = make.endpoint(network, aliases=["a", "b", "a"], labels={"x": "y"})
    check(ENDPOINT, endpoint)
    assert endpoint["ipv4_address"] == "172.28.5.0/16"  # a range's first address is usable
    assert endpoint["ipv6_address"] == "fd00:28::2/64"
    unjoined = {
        "sandbox": None, "node": None, "ifname": None, "gateway_ipv4": None, "state": "created",
        "aliases": ["a", "b"], "ready": True,
    }  # fmt: skip
    assert {key: endpoint[key] for key in unjoined} == unjoined
    assert endpoint["dns_names"] == [endpoint["name"], "a", "b"]
    assert endpoint["driver_info"] == {"host_ifname": None}

    shown = api.ask("network.get", {"network": network["name"]})
    check(NETWORK, shown)
    assert shown["endpoints"] == [{key: endpoint[key] for key in LINE}]
    assert shown["ipam"]["pools"][0]["in_use"] == 3
    assert shown["ipam"]["pools"][0]["available"] == 253
    assert {**shown, "endpoints": [], "ipam": {}} == {**network, "ipam": {}}
    (listed,) = [each for each in api.ask("network.list")["networks"] if each["id"] == network["id"]]
    assert listed == shown


def test_a_sandbox_and_its_endpoints_are_shown_as_the_contract_says(api, make, network):
    fields = {
        "hostname": "web", "domainname": "corp.example", "labels": {"a": "b"}, "exposed_ports": ["9090/tcp"],
        "extra_hosts": [{"name": "db.local", "ip": "10.0.0.5"}],
        "dns": {"servers": ["10.0.0.53"], "search": ["corp.example"], "options": ["ndots:2"]},
        "sysctls": {"net.ipv4.ip_unprivileged_port_start": "80"},
    }  # fmt: skip
    box = make.sandbox(ports=[{"container_port": 80}, {"container_port": 53, "protocol": "udp"}], **fields)
    check(SANDBOX, box)
    assert {key: box[key] for key in fields} == fields
    assert box["node"] == api.node
    assert box["netns"] is None
    assert box["ports"] == []
    assert box["endpoints"] == []
    assert box["gateway_ipv4"] is None
    assert "/netns/" in box["key"]
    assert box["use_default_sandbox"] is False

    endpoint = make.connect(box, network, aliases=["www"], mac_address="02:AB:CD:EF:00:01")
    check(ENDPOINT, endpoint)
    assert endpoint["name"] == box["name"]
    assert endpoint["mac_address"] == "02:ab:cd:ef:00:01"
    assert endpoint["state"] == "joined"
    assert endpoint["node"] == api.node
    assert endpoint["ifname"] == "eth0"
    assert endpoint["sandbox"] == box["id"]
    assert endpoint["network"] == network["id"]
    assert endpoint["gateway_ipv4"] == "172.28.5.254"
    assert endpoint["gateway_ipv6"] == "fd00:28::1"
    assert endpoint["dns_names"] == [box["name"], "www", box["id"][:12]]
    assert re.fullmatch(r"veth[0-9a-f]{7}", endpoint["driver_info"]["host_ifname"])

    shown = api.ask("sandbox.get", {"sandbox": box["id"]})
    check(SANDBOX, shown)
    assert shown["endpoints"] == [endpoint]
    assert shown["gateway_ipv4"] == shown["gateway_ipv6"] == endpoint["id"]
    assert api.ask("endpoint.get", {"endpoint": endpoint["id"]}) == endpoint
    assert endpoint in api.ask("endpoint.list", {"network": network["name"]})["endpoints"]
    assert shown in api.ask("sandbox.list")["sandboxes"]
    bound = {
        (each["container_port"], each["protocol"], each["host_ip"], each["container_ip"]) for each in shown["ports"]
    }
    assert bound == {
        (80, "tcp", "0.0.0.0", "172.28.5.0"),
        (80, "tcp", "::", "fd00:28::2"),
        (53, "udp", "0.0.0.0", "172.28.5.0"),
        (53, "udp", "::", "fd00:28::2"),
    }
    assert len(shown["ports"]) == 4
    for protocol in ("tcp", "udp"):  # both families of one binding have the same port
        assert len({each["host_port"] for each in shown["ports"] if each["protocol"] == protocol}) == 1


def test_a_sandbox_that_has_only_ipv4_shows_its_ports_on_both_families(api, make):
    box = make.sandbox(on=[make.network()], ports=[{"container_port": 80, "host_port": 18181}])
    address = box["endpoints"][0]["ipv4_address"].partition("/")[0]
    assert box["ports"] == [
        {"container_port": 80, "protocol": "tcp", "host_ip": host, "host_port": 18181, "container_ip": address}
        for host in ("0.0.0.0", "::")
    ]


def test_a_range_is_shown_as_one_entry_a_family(api, make):
    ports = [{"container_port": 8000, "container_port_end": 8002, "host_port": 18200, "host_port_end": 18202}]
    box = make.sandbox(on=[make.network()], ports=ports)
    assert [(each["host_ip"], each["container_port"], each["container_port_end"], each["host_port"],
             each["host_port_end"]) for each in box["ports"]] == [
        ("0.0.0.0", 8000, 8002, 18200, 18202), ("::", 8000, 8002, 18200, 18202),
    ]  # fmt: skip


def test_revisions_grow_with_each_change(api, make):
    network, other = make.network(), make.network()
    box = make.sandbox()
    endpoint = make.endpoint(network)
    join = {"network": network["id"], "endpoint": endpoint["id"], "sandbox": box["id"]}
    verbs = ("endpoint.join", "endpoint.leave", "endpoint.join")
    seen = [endpoint["revision"], *(api.ask(verb, join)["revision"] for verb in verbs)]
    assert seen == sorted(set(seen)), seen
    assert api.ask("endpoint.get", {"endpoint": endpoint["id"]})["revision"] == seen[-1]
    before = api.ask("sandbox.get", {"sandbox": box["id"]})["revision"]
    make.connect(box, other)
    assert api.ask("sandbox.get", {"sandbox": box["id"]})["revision"] > before


def test_the_predefined_networks_are_there(api):
    shown = {each["name"]: each for each in api.ask("network.list")["networks"]}
    assert {name: shown[name]["driver"] for name in ("none", "host", "bridge")} == {
        "none": "null", "host": "host", "bridge": "bridge",
    }  # fmt: skip
    for name in ("none", "host", "bridge"):
        check(NETWORK, shown[name])
        assert shown[name]["scope"] == "local"


def test_endpoints_on_none_have_no_addresses(api, make):
    box = make.sandbox(on=[{"id": "none"}])
    (endpoint,) = box["endpoints"]
    check(ENDPOINT, endpoint)
    for key in ("ipv4_address", "ipv6_address", "gateway_ipv4", "gateway_ipv6"):
        assert endpoint[key] is None
    assert [link["ifname"] for link in api.ip("link show", box["key"])] == ["lo"]
    assert box["gateway_ipv4"] is None


def test_ipam_replies_as_the_contract_says(api, make):
    space = api.name("space")
    asked = {"space": space, "pool": "10.80.0.0/16", "sub_pool": "10.80.4.0/24", "options": {}}
    made = api.ask("ipam.pool.request", asked)
    assert made == {"pool_id": made["pool_id"], "pool": "10.80.0.0/16", "options": {}}
    assert isinstance(made["pool_id"], str)
    lease = api.ask("ipam.address.request", {"pool_id": made["pool_id"]})
    assert lease == {"address": "10.80.4.0/16", "options": {}}
    shown = api.ask("ipam.pool.get", {"pool_id": made["pool_id"]})
    check(OWN_POOL, shown)
    assert shown["pool"] == "10.80.0.0/16"
    assert shown["sub_pool"] == "10.80.4.0/24"
    assert (shown["in_use"], shown["available"]) == (1, 255)
    assert api.ask("ipam.pool.list", {"space": space}) == {"pools": [shown]}
    assert {"name": space, "pools": 1} in api.ask("ipam.space.list")["spaces"]
    assert api.ask("ipam.address.release", {"pool_id": made["pool_id"], "address": "10.80.4.0"}) == {}
    assert api.ask("ipam.pool.release", {"pool_id": made["pool_id"]}) == {}
    assert api.ask("ipam.pool.list", {"space": space}) == {"pools": []}
    assert {"LocalDefault", "GlobalDefault"} <= {each["name"] for each in api.ask("ipam.space.list")["spaces"]}


def test_nodes_and_the_system_are_shown_as_the_contract_says(api, make):
    (node,) = api.ask("node.list")["nodes"]
    check(NODE, node)
    assert node["name"] == api.node
    assert node["state"] == "ready"
    assert isinstance(node["kernel"]["ipvs"], bool)
    assert isinstance(node["kernel"]["vxlan"], bool)
    names = {worker["name"] for worker in node["workers"]}
    assert {"cnm-sandbox", "cnm-driver-bridge", "cnm-port-mapper", "cnm-resolver"} <= names
    make.sandbox(on=[make.network()])
    shown = api.ask("node.get", {"node": api.node})
    assert shown["sandboxes"] == node["sandboxes"] + 1
    assert shown["endpoints"] == node["endpoints"] + 1
    assert api.ask("system.info")["version"]


def test_every_worker_is_a_nats_service_with_schemas(api):
    import asyncio
    import json

    async def gather(subject):
        inbox = api.client.new_inbox()
        found = []

        async def note(message):
            found.append(json.loads(message.data))

        subscription = await api.client.subscribe(inbox, cb=note)
        await api.client.publish(subject, b"", reply=inbox)
        async with asyncio.timeout(5):
            while len({each["name"] for each in found}) < 6:
                await asyncio.sleep(0.005)
        await subscription.unsubscribe()
        return found

    names = {f"cnm-{each}" for each in ("controller", "ipam", "sandbox", "driver-bridge", "port-mapper", "resolver")}
    assert {each["name"] for each in api.run(gather("$SRV.PING"))} == names
    assert {each["name"] for each in api.run(gather("$SRV.STATS"))} == names
    subjects = set()
    for service in api.run(gather("$SRV.INFO")):
        assert service["endpoints"], service["name"]
        for endpoint in service["endpoints"]:
            subjects.add(endpoint["subject"])
            for key in ("request_schema", "response_schema"):
                assert isinstance(json.loads(endpoint["metadata"][key]), dict)
    assert {"cnm.v1.network.create", "cnm.v1.sandbox.connect", "cnm.v1.ipam.pool.request"} <= subjects
