"""Whatever is wrong with a request is told, all of it, and nothing changes (API 1 and 12)."""

import pytest

NO_ID = "0" * 64
DELETED = "f" * 64


@pytest.fixture(scope="module")
def fixed(api, make_for_module):
    """Objects that the tables below name."""
    web = make_for_module.network("table-web", ipam={"pools": [{"subnet": "10.61.0.0/24"}]})
    other = make_for_module.network("table-other", ipam={"pools": [{"subnet": "10.62.0.0/24"}]})
    box = make_for_module.sandbox(
        "table-box", on=[web], ports=[{"container_port": 80, "host_port": 18080}], labels={"tier": "front"}
    )
    make_for_module.endpoint(web, "table-idle")
    make_for_module.endpoint(other, "table-other-idle")
    make_for_module.sandbox("table-free")
    pool = make_for_module.pool(space="table-space", pool="10.63.0.0/24")
    api.ask("ipam.address.request", {"pool_id": pool["pool_id"], "address": "10.63.0.9", "owner": "table-owner"})
    owned = next(each for each in api.ask("ipam.pool.list")["pools"] if each["pool"] == "10.61.0.0/24")
    return {
        "NODE": api.node,
        "WEB": web["id"],
        "BOX": box["id"],
        "POOL": pool["pool_id"],
        "OWNED": owned["pool_id"],
        "ENDPOINT": box["endpoints"][0]["id"],
        "ADDRESS": box["endpoints"][0]["ipv4_address"].partition("/")[0],
    }


def filled(value, fixed):
    if isinstance(value, dict):
        return {key: filled(item, fixed) for key, item in value.items()}
    if isinstance(value, list):
        return [filled(item, fixed) for item in value]
    return fixed.get(value, value) if isinstance(value, str) else value


# Each verb with the fields that it cannot do without.
VERBS = {
    "network.create": {"name": "n"},
    "network.get": {"network": "table-web"},
    "network.list": {},
    "network.update": {"network": "table-web"},
    "network.delete": {"network": "table-web"},
    "network.prune": {},
    "sandbox.create": {"name": "s"},
    "sandbox.get": {"sandbox": "table-box"},
    "sandbox.list": {},
    "sandbox.delete": {"sandbox": "table-box"},
    "sandbox.connect": {"sandbox": "table-box", "network": "table-other"},
    "sandbox.disconnect": {"sandbox": "table-box", "network": "table-web"},
    "endpoint.create": {"network": "table-web", "name": "e"},
    "endpoint.get": {"endpoint": "ENDPOINT"},
    "endpoint.list": {},
    "endpoint.delete": {"endpoint": "ENDPOINT"},
    "endpoint.join": {"endpoint": "ENDPOINT", "sandbox": "table-box"},
    "endpoint.leave": {"endpoint": "ENDPOINT", "sandbox": "table-box"},
    "ipam.space.list": {},
    "ipam.pool.request": {"space": "table-space"},
    "ipam.pool.release": {"pool_id": "POOL"},
    "ipam.pool.get": {"pool_id": "POOL"},
    "ipam.pool.list": {},
    "ipam.address.request": {"pool_id": "POOL"},
    "ipam.address.release": {"pool_id": "POOL", "address": "10.63.0.9"},
    "node.list": {},
    "node.get": {"node": "NODE"},
    "system.info": {},
}


def faults(error):
    return {fault["field"]: fault for fault in error["details"]["fields"]}


def test_every_verb_refuses_a_body_that_it_cannot_read(api, fixed):
    big = b'{"name": "' + b"x" * (1024 * 1024) + b'"}'
    with api.unchanged():
        for verb in VERBS:
            for raw in (
                b"{",
                b"nonsense",
                b"\xff\xfe",
                b'{"name": "\xff"}',
                b"{} {}",
                b'{"x": 1e400}',
                b'{"\xff": 1}',
            ):
                error = api.refused(verb, raw=raw)
                assert error["details"]["fields"], (verb, raw)
            for raw in (b"[]", b"1", b'"text"', b"null", b"true", b"[" * 100_000):
                error = api.refused(verb, raw=raw)
                assert error["details"]["fields"], (verb, raw[:20])
            api.refused(verb, None, "invalid", "1048576", raw=big)


def test_every_verb_takes_an_empty_body_for_an_empty_object(api, fixed):
    with api.unchanged():
        for verb, body in VERBS.items():
            if verb == "network.prune":
                continue
            for raw in (b"", b"{}"):
                if not body:
                    api.ask(verb, raw=raw)
                else:
                    found = faults(api.refused(verb, raw=raw))
                    assert set(found) == set(body), verb
                    for field, fault in found.items():
                        assert fault["value"] is None
                        assert "missing" in fault["reason"] or "required" in fault["reason"], field


def test_every_verb_tells_each_missing_and_unknown_field_and_each_wrong_type_at_once(api, fixed):
    with api.unchanged():
        for verb, body in VERBS.items():
            for missing in body:
                rest = {key: filled(value, fixed) for key, value in body.items() if key != missing}
                found = faults(api.refused(verb, {**rest, "colour": "red", "Name": 7}, "invalid", "colour", "Name"))
                assert set(found) == {missing, "colour", "Name"}, verb
                assert found["colour"]["value"] == "red"
                assert found["Name"]["value"] == 7
            for wrong in (7, True, ["x"], {"a": 1}, None, ""):
                found = faults(api.refused(verb, {**dict.fromkeys(body, wrong), "extra": wrong}))
                assert {field.split("[")[0].split(".")[0] for field in found} == {*body, "extra"}, (verb, wrong)
                for field, fault in found.items():
                    assert fault["value"] == wrong, (verb, field)


INVALID = [
    ("network.create", {"name": ""}, ["name"], []),
    ("network.create", {"name": "-a"}, ["name"], ["-a"]),
    ("network.create", {"name": "a/b"}, ["name"], ["a/b"]),
    ("network.create", {"name": "a\n"}, ["name"], []),
    ("network.create", {"name": "ü"}, ["name"], ["ü"]),
    ("network.create", {"name": "x" * 129}, ["name"], []),
    ("network.create", {"name": "n", "internal": "yes"}, ["internal"], ["yes"]),
    ("network.create", {"name": "n", "internal": 1, "labels": {"a": 1}}, ["internal", "labels.a"], []),
    ("network.create", {"name": "n", "labels": []}, ["labels"], []),
    ("network.create", {"name": "n", "ipam": {"pools": {}}}, ["ipam.pools"], []),
    ("network.create", {"name": "n", "ipam": {"pools": [{"subnet": "10.9.0.1/24"}]}}, ["ipam.pools[0].subnet"],
     ["10.9.0.1/24", "10.9.0.0/24"]),
    ("network.create", {"name": "n", "ipam": {"pools": [{"subnet": "10.9.0.0"}]}}, ["ipam.pools[0].subnet"],
     ["10.9.0.0"]),
    ("network.create", {"name": "n", "ipam": {"pools": [{"subnet": "10.9.0.0/255.255.255.0"}]}},
     ["ipam.pools[0].subnet"], ["10.9.0.0/255.255.255.0"]),
    ("network.create", {"name": "n", "options": {"com.docker.network.bridge.host_binding_ipv4": "::1"}},
     ["options.com.docker.network.bridge.host_binding_ipv4"], ["::1"]),
    ("network.create", {"name": "n", "ipam": {"pools": [{"subnet": "10.9.0.0/33"}]}}, ["ipam.pools[0].subnet"],
     ["10.9.0.0/33"]),
    ("network.create", {"name": "n", "ipam": {"pools": [{"subnet": "10.9.0.0/24", "gw": "10.9.0.1"}]}},
     ["ipam.pools[0].gw"], ["gw"]),
    ("network.create", {"name": "n", "ipam": {"pools": [
        {"subnet": "10.9.0.0/24", "gateway": "10.8.0.1", "range": "10.7.0.0/25",
         "aux_addresses": {"a": "10.9.1.1", "b": "10.9.0.2"}}]}},
     ["ipam.pools[0].gateway", "ipam.pools[0].range", "ipam.pools[0].aux_addresses.a"],
     ["10.8.0.1", "10.7.0.0/25", "10.9.1.1"]),
    ("network.create", {"name": "n", "ipam": {"pools": [{"subnet": "10.9.0.0/24", "gateway": "10.9.0.0"}]}},
     ["ipam.pools[0].gateway"], ["10.9.0.0"]),
    ("network.create", {"name": "n", "ipam": {"pools": [{"subnet": "10.9.0.0/24", "gateway": "10.9.0.255"}]}},
     ["ipam.pools[0].gateway"], ["10.9.0.255"]),
    ("network.create", {"name": "n", "ipam": {"pools": [{"subnet": "10.9.0.0/24", "gateway": "10.9.0.9",
                                                          "aux_addresses": {"a": "10.9.0.9"}}]}},
     ["ipam.pools[0].aux_addresses.a"], ["10.9.0.9"]),
    ("network.create", {"name": "n", "ipam": {"pools": [{"subnet": "10.9.0.0/24", "gateway": "10.9.0.1/24"}]}},
     ["ipam.pools[0].gateway"], ["10.9.0.1/24"]),
    ("network.create", {"name": "n", "ipam": {"pools": [{"range": "10.9.0.0/25"}]}}, ["ipam.pools[0].range"],
     ["10.9.0.0/25"]),
    ("network.create", {"name": "n", "ipam": {"pools": [{"subnet": "10.9.0.0/24"}, {"subnet": "10.10.0.0/24"}]}},
     ["ipam.pools[1].subnet"], ["10.10.0.0/24"]),
    ("network.create", {"name": "n", "ipam": {"pools": [{"subnet": "fd00:9::/64"}]}}, ["ipam.pools[0].subnet"],
     ["fd00:9::/64"]),
    ("network.create", {"name": "n", "enable_ipv4": False, "enable_ipv6": True,
                        "ipam": {"pools": [{"subnet": "10.9.0.0/24"}]}}, ["ipam.pools[0].subnet"], ["10.9.0.0/24"]),
    ("network.create", {"name": "n", "enable_ipv4": False}, ["enable_ipv4"], []),
    ("network.create", {"name": "n", "scope": "galaxy"}, ["scope"], ["galaxy"]),
    ("network.create", {"name": "n", "options": {"com.docker.network.bridge.nmae": "br-x"}},
     ["options.com.docker.network.bridge.nmae"], ["com.docker.network.bridge.nmae"]),
    ("network.create", {"name": "n", "options": {"com.docker.network.driver.mtu": "9x",
                                                 "com.docker.network.bridge.enable_icc": "maybe",
                                                 "com.docker.network.bridge.name": "much-too-long-for-a-link"}},
     ["options.com.docker.network.driver.mtu", "options.com.docker.network.bridge.enable_icc",
      "options.com.docker.network.bridge.name"], ["9x", "maybe", "much-too-long-for-a-link"]),
    ("network.create", {"name": "n", "ipam": {"options": {"colour": "red"}}}, ["ipam.options.colour"], ["colour"]),
    ("network.create", {"name": "n", "ipam": {"options": {"com.docker.network.ipam.serial": "maybe"}}},
     ["ipam.options.com.docker.network.ipam.serial"], ["maybe"]),
    ("network.create", {"name": "n", "ipam": {"address_space": "nowhere"}}, ["ipam.address_space"], ["nowhere"]),
    ("network.create", {"name": "n", "dns": {"servers": ["dns.local"], "ttl": -1}}, ["dns.servers[0]", "dns.ttl"],
     ["dns.local", "-1"]),
    ("network.create", {"name": "-n", "colour": 1, "enable_ipv4": "no",
                        "options": {"com.docker.network.driver.mtu": "x"},
                        "ipam": {"pools": [{"subnet": "10.9.0.0/24", "gateway": "10.8.0.1", "gw": "x"},
                                           {"subnet": "10.9.0.1/24", "gateway": "10.8.0.1"}]}},
     ["name", "colour", "enable_ipv4", "options.com.docker.network.driver.mtu", "ipam.pools[0].gw",
      "ipam.pools[0].gateway", "ipam.pools[1].subnet", "ipam.pools[1].gateway"], ["-n", "10.8.0.1", "10.9.0.1/24"]),
    ("network.create", {"name": "n", "config_only": True, "config_from": "table-web"}, ["config_from"], []),
    ("network.create", {"name": "n", "config_only": True, "ingress": True}, ["ingress"], []),
    ("network.create", {"name": "n", "config_only": True, "internal": True, "attachable": True, "scope": "swarm",
                        "driver": "macvlan"}, ["internal", "attachable", "scope", "driver"], ["swarm", "macvlan"]),
    ("network.create", {"name": "n", "config_only": True, "ipam": {"pools": [{"subnet": "10.9.0.1/24"},
                                                                           {"subnet": "fd00:9::/64"}]}},
     ["ipam.pools[0].subnet", "ipam.pools[1].subnet"], ["10.9.0.0/24", "fd00:9::/64"]),
    ("network.create", {"name": "n", "config_from": "nonesuch", "labels": {"a": "1"}, "enable_ipv6": True,
                        "dns": {"ttl": 1}, "options": {"com.docker.network.driver.mtu": "1400"},
                        "ipam": {"driver": "null", "pools": [{"subnet": "10.9.0.0/24"}]}},
     ["labels", "enable_ipv6", "dns", "options", "ipam.driver", "ipam.pools"], ["nonesuch"]),
    ("network.create", {"name": "n", "enable_ipv6": True, "options": {"com.docker.network.driver.mtu": "1000"}},
     ["options.com.docker.network.driver.mtu"], ["1000", "1280"]),
    ("network.update", {"network": "table-web", "revision": 0, "labels": {"a": 1}, "dns": {"ttl": -1},
                        "add_pools": [{"subnet": "10.9.0.1/24", "gateway": "10.8.0.1"}, {"range": "10.9.0.0/25"}]},
     ["revision", "labels.a", "dns.ttl", "add_pools[0].subnet", "add_pools[0].gateway", "add_pools[1].range"],
     ["10.9.0.0/24", "10.8.0.1", "10.9.0.0/25"]),
    ("network.update", {"network": "table-web", "options": {
        "com.docker.network.bridge.name": "br-x", "com.docker.network.bridge.inhibit_ipv4": True,
        "com.docker.network.bridge.gateway_mode_ipv4": "isolated", "com.docker.network.driver.mtu": 7,
        "colour": "red"},
        "add_pools": [{"subnet": "10.61.0.0/25"}, {"subnet": "10.9.0.0/24", "gateway": "10.8.0.1"}]},
     ["options.com.docker.network.bridge.name", "options.com.docker.network.bridge.inhibit_ipv4",
      "options.com.docker.network.bridge.gateway_mode_ipv4", "options.com.docker.network.driver.mtu",
      "options.colour", "add_pools[0].subnet", "add_pools[1].gateway"],
     ["br-x", "10.61.0.0/24", "table-web", "10.8.0.1", "colour"]),
    ("network.list", {"filters": {"colour": ["red"], "size": ["1"]}}, ["filters.colour", "filters.size"],
     ["colour", "size"]),
    ("network.list", {"filters": {"name": "web"}}, ["filters.name"], ["web"]),
    ("network.list", {"filters": []}, ["filters"], []),
    ("network.list", {"limit": 0}, ["limit"], ["0"]),
    ("network.list", {"limit": "3"}, ["limit"], ["3"]),
    ("network.list", {"after": "abc"}, ["after"], ["abc"]),
    ("network.list", {"filters": {"dangling": ["maybe"]}}, ["filters.dangling"], ["maybe"]),
    ("network.prune", {"filters": {"colour": ["red"]}}, ["filters.colour"], ["colour"]),
    ("network.delete", {"network": "table-web", "force": "yes"}, ["force"], ["yes"]),
    ("sandbox.create", {"name": "-s"}, ["name"], ["-s"]),
    ("sandbox.create", {"name": "s", "ports": [{"container_port": 0}, {"container_port": 70000},
                                               {"container_port": 80, "protocol": "icmp"}, {}]},
     ["ports[0].container_port", "ports[1].container_port", "ports[2].protocol", "ports[3].container_port"],
     ["70000", "icmp"]),
    ("sandbox.create", {"name": "s", "ports": [{"container_port": 80, "container_port_end": 79},
                                               {"container_port": 80, "host_port": 9000, "host_port_end": 8999}]},
     ["ports[0].container_port_end", "ports[1].host_port_end"], ["79", "8999"]),
    ("sandbox.create", {"name": "s", "ports": [{"container_port": 80, "container_port_end": 83, "host_port": 9000,
                                                "host_port_end": 9001}]}, ["ports[0].host_port_end"], []),
    ("sandbox.create", {"name": "s", "ports": [{"container_port": 80, "host_port_end": 9001}]},
     ["ports[0].host_port"], []),
    ("sandbox.create", {"name": "s", "ports": [{"container_port": 80, "host_ip": "localhost"}]},
     ["ports[0].host_ip"], ["localhost"]),
    ("sandbox.create", {"name": "s", "ports": [{"container_port": 80, "host_port": 8081},
                                               {"container_port": 81, "host_port": 8081}]},
     ["ports[1].host_port"], ["8081"]),
    ("sandbox.create", {"name": "s", "ports": [{"container_port": 80, "allow": ["10.0.0.1/8"]}]},
     ["ports[0].allow[0]"], ["10.0.0.1/8", "10.0.0.0/8"]),
    ("sandbox.create", {"name": "s", "exposed_ports": ["0/tcp", "9090", "99999/udp"]},
     ["exposed_ports[0]", "exposed_ports[2]"], ["0/tcp", "99999/udp"]),
    ("sandbox.create", {"name": "s", "exposed_ports": ["80/icmp", "9090", "http"]},
     ["exposed_ports[0]", "exposed_ports[2]"], ["80/icmp", "http"]),
    ("sandbox.create", {"name": "s", "extra_hosts": [{"name": "db", "ip": "nowhere"},
                                                     {"name": "a b", "ip": "1.2.3.4"}, {"name": "db"}]},
     ["extra_hosts[0].ip", "extra_hosts[1].name", "extra_hosts[2].ip"], ["nowhere", "a b"]),
    ("sandbox.create", {"name": "s", "netns": "/nowhere/at/all"}, ["netns"], ["/nowhere/at/all"]),
    ("sandbox.create", {"name": "s", "netns": "/etc/passwd"}, ["netns"], ["/etc/passwd"]),
    ("sandbox.create", {"name": "s", "netns": "relative"}, ["netns"], ["relative"]),
    ("sandbox.create", {"name": "s", "netns": "/proc/self/ns/mnt"}, ["netns"], ["/proc/self/ns/mnt"]),
    ("sandbox.create", {"name": "s", "netns": "/proc/1/ns/net", "use_default_sandbox": True}, ["netns"], []),
    ("sandbox.create", {"name": "s", "sysctls": {"kernel.shmmax": "1"}}, ["sysctls.kernel.shmmax"],
     ["kernel.shmmax"]),
    ("sandbox.create", {"name": "s", "hostname": "a b", "domainname": "c d"}, ["hostname", "domainname"],
     ["a b", "c d"]),
    ("sandbox.create", {"name": "s", "dns": {"servers": ["x"], "options": [""]}},
     ["dns.servers[0]", "dns.options[0]"], ["x"]),
    ("sandbox.create", {"name": "s", "colour": 1, "sysctls": {"kernel.x": "1"}, "netns": "relative", "ports": [
        {"container_port": "http", "host_port": 9000, "host_port_end": 8999},
        {"container_port": 80, "host_port": 9000, "host_port_end": 8999}]},
     ["colour", "sysctls.kernel.x", "netns", "ports[0].container_port", "ports[0].host_port_end",
      "ports[1].host_port_end"],
     ["http", "relative"]),
    ("sandbox.list", {"filters": {"driver": ["x"]}}, ["filters.driver"], ["driver"]),
    ("sandbox.connect", {"sandbox": "table-box", "network": "table-other", "ipv4_address": "10.61.0.9"},
     ["ipv4_address"], ["10.61.0.9", "10.62.0.0/24"]),
    ("sandbox.connect", {"sandbox": "table-box", "network": "table-other", "ipv4_address": "fd00::1",
                         "mac_address": "02:00", "ifname": "much-too-long-for-a-link"},
     ["ipv4_address", "mac_address", "ifname"], ["fd00::1", "02:00", "much-too-long-for-a-link"]),
    ("sandbox.connect", {"sandbox": "table-box", "network": "table-other", "ipv6_address": "fd00::1"},
     ["ipv6_address"], ["fd00::1"]),
    ("sandbox.connect", {"sandbox": "table-box", "network": "table-other", "mac_address": "01:00:5e:00:00:01"},
     ["mac_address"], ["01:00:5e:00:00:01"]),
    ("sandbox.connect", {"sandbox": "table-box", "network": "table-other", "options": {"colour": "red"}},
     ["options.colour"], ["colour"]),
    ("sandbox.connect", {"sandbox": "table-box", "network": "table-other", "aliases": ["a", "-b"],
                         "gw_priority": "1"}, ["aliases[1]", "gw_priority"], ["-b"]),
    ("sandbox.connect", {"sandbox": "table-box", "network": "table-other", "ipv4_address": "10.62.0.255"},
     ["ipv4_address"], ["10.62.0.255"]),
    ("sandbox.connect", {"sandbox": "table-box", "network": "table-other", "ipv4_address": "10.62.0.0"},
     ["ipv4_address"], ["10.62.0.0"]),
    ("sandbox.connect", {"sandbox": "table-box", "network": "table-other", "ifname": "."}, ["ifname"], []),
    ("sandbox.connect", {"sandbox": "table-box", "network": "table-other", "sysctls": {"net.ipv4.ip_forward": "1"}},
     ["sysctls.net.ipv4.ip_forward"], ["net.ipv4.ip_forward"]),
    ("endpoint.create", {"network": "table-web", "name": "-e", "ipv4_address": 7}, ["name", "ipv4_address"], ["-e"]),
    ("endpoint.create", {"network": "table-web", "name": "e", "ipv4_address": "10.99.0.1"}, ["ipv4_address"],
     ["10.99.0.1", "10.61.0.0/24"]),
    ("endpoint.list", {"filters": {"tier": ["x"]} }, ["filters.tier"], ["tier"]),
    ("endpoint.join", {"network": "table-other", "endpoint": "table-other-idle", "sandbox": "table-free",
                       "ifname": "a/b", "gw_priority": 1.5}, ["ifname", "gw_priority"], ["a/b", "1.5"]),
    ("ipam.pool.request", {"space": "nowhere"}, ["space"], ["nowhere"]),
    ("ipam.pool.request", {"space": "table-space", "pool": "10.63.1.7/24"}, ["pool"],
     ["10.63.1.7/24", "10.63.1.0/24"]),
    ("ipam.pool.request", {"space": "table-space", "pool": "10.64.0.0/24", "sub_pool": "10.65.0.0/25"},
     ["sub_pool"], ["10.65.0.0/25"]),
    ("ipam.pool.request", {"space": "LocalDefault", "sub_pool": "10.65.0.0/25"}, ["sub_pool"], ["10.65.0.0/25"]),
    ("ipam.pool.request", {"space": "table-space", "pool": "10.64.0.0/24", "options": {"colour": "red"}},
     ["options.colour"], ["colour"]),
    ("ipam.pool.request", {"space": "table-space", "pool": 9, "exclude": ["10.0.0.0/33"], "ipv6": "yes"},
     ["pool", "exclude[0]", "ipv6"], ["10.0.0.0/33", "yes"]),
    ("ipam.pool.request", {"space": "table-space", "pool": "10.64.0.0/24", "ipv6": True}, ["ipv6"], []),
    ("ipam.address.request", {"pool_id": "POOL", "address": "10.64.0.1"}, ["address"], ["10.64.0.1", "10.63.0.0/24"]),
    ("ipam.address.request", {"pool_id": "POOL", "address": "fd00::1"}, ["address"], ["fd00::1"]),
    ("ipam.address.request", {"pool_id": "POOL", "address": "10.63.0.0"}, ["address"], ["10.63.0.0"]),
    ("ipam.address.request", {"pool_id": "POOL", "address": "10.63.0.255"}, ["address"], ["10.63.0.255"]),
    ("ipam.address.request", {"pool_id": "POOL", "address": "10.63.0.1/24"}, ["address"], ["10.63.0.1/24"]),
    ("ipam.address.request", {"pool_id": "POOL", "options": {"colour": 1}}, ["options.colour"], ["colour"]),
    ("node.list", {"filters": {"colour": ["x"]}}, ["filters.colour"], ["colour"]),
]  # fmt: skip


@pytest.mark.parametrize("verb", sorted({row[0] for row in INVALID}))
def test_malformed_and_contradictory_requests_are_invalid_with_every_fault(api, fixed, verb):
    with api.unchanged():
        for row_verb, body, fields, words in INVALID:
            if row_verb == verb:
                error = api.refused(verb, filled(body, fixed), "invalid", *words)
                assert sorted(faults(error)) == sorted(fields), (body, error)


REFUSED = [
    ("network.create", {"name": "table-web"}, "conflict", ["table-web", "WEB"]),
    ("network.create", {"name": "n", "ipam": {"pools": [{"subnet": "10.61.0.0/16"}]}}, "conflict",
     ["10.61.0.0/16", "table-web"]),
    ("network.create", {"name": "bridge"}, "forbidden", ["bridge"]),
    ("network.create", {"name": "host", "driver": "host"}, "forbidden", ["host"]),
    ("network.create", {"name": "none", "driver": "null"}, "forbidden", ["none"]),
    ("network.create", {"name": "n", "driver": "nonesuch"}, "unsupported", ["nonesuch"]),
    ("network.create", {"name": "n", "scope": "swarm"}, "unsupported", ["swarm"]),
    ("network.create", {"name": "n", "ipam": {"driver": "nonesuch"}}, "unsupported", ["nonesuch"]),
    ("network.create", {"name": "n", "driver": "host"}, "forbidden", ["host"]),
    ("network.create", {"name": "n", "scope": "global"}, "unsupported", ["global"]),
    ("network.create", {"name": "n", "ingress": True}, "unsupported", ["ingress"]),
    ("network.create", {"name": "n", "config_from": "nonesuch"}, "not_found", ["nonesuch"]),
    ("network.create", {"name": "n", "config_from": "table-web"}, "not_found", ["table-web", "configuration"]),
    ("network.update", {"network": "nonesuch"}, "not_found", ["nonesuch"]),
    ("network.update", {"network": "bridge", "labels": {"a": "1"}}, "forbidden", ["bridge"]),
    ("network.update", {"network": "host", "labels": {}}, "forbidden", ["host"]),
    ("network.update", {"network": "none", "options": {}}, "forbidden", ["none"]),
    ("network.update", {"network": "table-web", "revision": 9, "labels": {}}, "conflict", ["table-web", 1, 9]),
    ("network.update", {"network": "table-web", "add_pools": [{"subnet": "10.62.0.128/25"}]}, "conflict",
     ["10.62.0.128/25", "table-other"]),
    ("network.get", {"network": "nonesuch"}, "not_found", ["nonesuch"]),
    ("network.get", {"network": NO_ID}, "not_found", [NO_ID]),
    ("network.delete", {"network": "nonesuch"}, "not_found", ["nonesuch"]),
    ("network.delete", {"network": "nonesuch", "force": True}, "not_found", ["nonesuch"]),
    ("network.delete", {"network": "table-web"}, "forbidden", ["table-web", "table-box", "table-idle"]),
    ("network.delete", {"network": "bridge"}, "forbidden", ["bridge"]),
    ("network.delete", {"network": "host", "force": True}, "forbidden", ["host"]),
    ("network.delete", {"network": "none"}, "forbidden", ["none"]),
    ("network.list", {"after": NO_ID}, "not_found", [NO_ID]),
    ("sandbox.create", {"name": "table-box"}, "conflict", ["table-box", "BOX"]),
    ("sandbox.create", {"name": "s", "node": "nonesuch"}, "not_found", ["nonesuch"]),
    ("sandbox.create", {"name": "s", "ports": [{"container_port": 80, "host_port": 18080}]}, "conflict",
     ["18080", "table-box"]),
    ("sandbox.create", {"name": "s", "ports": [{"container_port": 80, "host_port": 18080, "host_ip": "127.0.0.1"}]},
     "conflict", ["18080", "table-box"]),
    ("sandbox.create", {"name": "s", "ports": [{"container_port": 80, "host_port": 18080, "host_ip": "::1"}]},
     "conflict", ["18080", "table-box"]),
    ("sandbox.get", {"sandbox": "nonesuch"}, "not_found", ["nonesuch"]),
    ("sandbox.delete", {"sandbox": "nonesuch"}, "not_found", ["nonesuch"]),
    ("sandbox.delete", {"sandbox": NO_ID}, "not_found", [NO_ID]),
    ("sandbox.connect", {"sandbox": "nonesuch", "network": "table-web"}, "not_found", ["nonesuch"]),
    ("sandbox.connect", {"sandbox": "table-box", "network": "nonesuch"}, "not_found", ["nonesuch"]),
    ("sandbox.connect", {"sandbox": "table-box", "network": "table-web"}, "conflict", ["table-box", "table-web"]),
    ("sandbox.connect", {"sandbox": "table-box", "network": "table-web", "name": "fresh"}, "conflict",
     ["table-box", "table-web"]),
    ("sandbox.connect", {"sandbox": "table-free", "network": "table-web", "name": "table-idle"}, "conflict",
     ["table-idle"]),
    ("sandbox.connect", {"sandbox": "table-free", "network": "table-web", "ipv4_address": "ADDRESS"}, "conflict",
     ["ADDRESS", "table-box"]),
    ("sandbox.connect", {"sandbox": "table-free", "network": "table-web", "ipv4_address": "10.61.0.1"}, "conflict",
     ["10.61.0.1", "table-web"]),
    ("sandbox.connect", {"sandbox": "table-box", "network": "table-other", "ifname": "eth0"}, "conflict",
     ["eth0", "table-box"]),
    ("sandbox.connect", {"sandbox": "table-box", "network": "table-other", "ifname": "lo"}, "conflict", ["lo"]),
    ("sandbox.disconnect", {"sandbox": "nonesuch", "network": "table-web"}, "not_found", ["nonesuch"]),
    ("sandbox.disconnect", {"sandbox": "table-box", "network": "nonesuch"}, "not_found", ["nonesuch"]),
    ("sandbox.disconnect", {"sandbox": "table-box", "network": "table-other"}, "not_found",
     ["table-box", "table-other"]),
    ("sandbox.disconnect", {"sandbox": "table-box", "network": "table-other", "force": True}, "not_found",
     ["table-box", "table-other"]),
    ("endpoint.create", {"network": "nonesuch", "name": "e"}, "not_found", ["nonesuch"]),
    ("endpoint.create", {"network": "table-web", "name": "table-idle"}, "conflict", ["table-idle"]),
    ("endpoint.create", {"network": "table-web", "name": "e", "ipv4_address": "ADDRESS"}, "conflict",
     ["ADDRESS", "table-box"]),
    ("endpoint.get", {"network": "table-web", "endpoint": "nonesuch"}, "not_found", ["nonesuch", "table-web"]),
    ("endpoint.get", {"network": "nonesuch", "endpoint": "table-box"}, "not_found", ["nonesuch"]),
    ("endpoint.get", {"network": "table-other", "endpoint": "ENDPOINT"}, "not_found", ["table-other"]),
    ("endpoint.get", {"endpoint": NO_ID}, "not_found", [NO_ID]),
    ("endpoint.list", {"network": "nonesuch"}, "not_found", ["nonesuch"]),
    ("endpoint.delete", {"network": "table-web", "endpoint": "table-box"}, "forbidden", ["table-box"]),
    ("endpoint.delete", {"network": "table-web", "endpoint": "nonesuch"}, "not_found", ["nonesuch"]),
    ("endpoint.delete", {"network": "table-web", "endpoint": "nonesuch", "force": True}, "not_found", ["nonesuch"]),
    ("endpoint.join", {"network": "table-web", "endpoint": "table-box", "sandbox": "table-free"}, "conflict",
     ["table-box"]),
    ("endpoint.join", {"network": "table-web", "endpoint": "table-box", "sandbox": "table-box"}, "conflict",
     ["table-box"]),
    ("endpoint.join", {"network": "table-web", "endpoint": "table-idle", "sandbox": "table-box"}, "conflict",
     ["table-box", "table-web"]),
    ("endpoint.join", {"network": "table-web", "endpoint": "table-idle", "sandbox": "nonesuch"}, "not_found",
     ["nonesuch"]),
    ("endpoint.join", {"network": "table-web", "endpoint": "nonesuch", "sandbox": "table-free"}, "not_found",
     ["nonesuch"]),
    ("endpoint.join", {"network": "table-other", "endpoint": "table-other-idle", "sandbox": "table-box",
                       "ifname": "eth0"}, "conflict", ["eth0", "table-box"]),
    ("endpoint.leave", {"network": "table-web", "endpoint": "table-idle", "sandbox": "table-box"}, "not_found",
     ["table-idle"]),
    ("endpoint.leave", {"network": "table-web", "endpoint": "table-box", "sandbox": "table-free"}, "not_found",
     ["table-box"]),
    ("endpoint.leave", {"network": "table-web", "endpoint": "table-box", "sandbox": "nonesuch"}, "not_found",
     ["nonesuch"]),
    ("endpoint.leave", {"network": "table-web", "endpoint": "nonesuch", "sandbox": "table-box"}, "not_found",
     ["nonesuch"]),
    ("ipam.pool.request", {"space": "table-space", "pool": "10.63.0.0/24"}, "conflict", ["10.63.0.0/24"]),
    ("ipam.pool.request", {"space": "table-space", "pool": "10.63.0.0/25"}, "conflict", ["10.63.0.0/24"]),
    ("ipam.pool.request", {"space": "LocalDefault", "pool": "10.61.0.128/25"}, "conflict", ["table-web"]),
    ("ipam.pool.get", {"pool_id": "nonesuch"}, "not_found", ["nonesuch"]),
    ("ipam.pool.release", {"pool_id": "nonesuch"}, "not_found", ["nonesuch"]),
    ("ipam.pool.release", {"pool_id": "OWNED"}, "forbidden", ["table-web"]),
    ("ipam.address.request", {"pool_id": "nonesuch"}, "not_found", ["nonesuch"]),
    ("ipam.address.request", {"pool_id": "POOL", "address": "10.63.0.9"}, "conflict", ["10.63.0.9", "table-owner"]),
    ("ipam.address.request", {"pool_id": "POOL", "address": "10.63.0.9", "owner": "another"}, "conflict",
     ["10.63.0.9", "table-owner"]),
    ("ipam.address.release", {"pool_id": "POOL", "address": "10.63.0.10"}, "not_found", ["10.63.0.10"]),
    ("ipam.address.release", {"pool_id": "nonesuch", "address": "10.63.0.10"}, "not_found", ["nonesuch"]),
    ("ipam.address.release", {"pool_id": "OWNED", "address": "10.61.0.1"}, "forbidden", ["10.61.0.1"]),
    ("node.get", {"node": "nonesuch"}, "not_found", ["nonesuch"]),
]  # fmt: skip


@pytest.mark.parametrize("verb", sorted({row[0] for row in REFUSED}))
def test_refusals_have_the_code_of_their_cause_and_change_nothing(api, fixed, verb):
    with api.unchanged():
        for row_verb, body, code, words in REFUSED:
            if row_verb == verb:
                api.refused(verb, filled(body, fixed), code, *(fixed.get(word, word) for word in words))


def test_what_is_deleted_is_not_found_by_anybody(api, make):
    network, box = make.network(), make.sandbox()
    endpoint = make.endpoint(network)
    pool = make.pool(pool="10.63.0.0/24")
    for verb, body in (
        ("endpoint.delete", {"endpoint": endpoint["id"]}),
        ("network.delete", {"network": network["id"]}),
        ("sandbox.delete", {"sandbox": box["id"]}),
        ("ipam.pool.release", {"pool_id": pool["pool_id"]}),
    ):
        assert api.ask(verb, body) == {}
        ((_, key),) = body.items()
        api.refused(verb, body, "not_found", key)
    api.refused("network.get", {"network": network["name"]}, "not_found", network["name"])
    api.refused("endpoint.get", {"endpoint": endpoint["id"]}, "not_found", endpoint["id"])
    api.refused("sandbox.connect", {"sandbox": box["name"], "network": "bridge"}, "not_found", box["name"])
