"""What somebody damages is found, mended and published; a check shows it at any time (API 7, 8 and 12)."""

import os
import signal
import subprocess

import pytest

DAMAGES = {
    "ruleset": ("nft flush ruleset", "node"),
    "table of the ports": ("nft delete table inet cnm_ports", "sandbox"),
    "rules of the ports": ("nft flush chain inet cnm_ports translate", "node"),
    "table of the networks": ("nft delete table inet cnm_filter", "node"),
    "rules of a chain": ("nft flush chain inet cnm_nat postrouting", "node"),
    "element of a port": ("nft flush map inet cnm_ports dnat4", "sandbox"),
    "link": ("ip link del {host_ifname}", "endpoint"),
    "link that is down": ("ip link set {host_ifname} down", "endpoint"),
    "link outside of its bridge": ("ip link set {host_ifname} nomaster", "endpoint"),
    "bridge": ("ip link del {bridge}", "network"),
    "bridge that is down": ("ip link set {bridge} down", "network"),
    "address of the gateway": ("ip addr flush dev {bridge} scope global", "network"),
    "address of the sandbox": ("@ip addr flush dev eth0 scope global", "endpoint"),
    "default route": ("@ip route del default", "endpoint or sandbox"),
    "interface that is down": ("@ip link set eth0 down", "endpoint"),
    "loopback that is down": ("@ip link set lo down", "sandbox"),
    "redirect of the names": ("@nft flush ruleset", "sandbox"),
    "namespace": ("umount -l {key}", "sandbox"),
    "hosts file": (": > {hosts}", "sandbox"),
    "files": ("rm {hosts} {resolv}", "sandbox"),
}

BY_ITSELF = (
    "ruleset",
    "table of the ports",
    "rules of a chain",
    "link",
    "bridge",
    "address of the gateway",
    "default route",
    "namespace",
    "files",
)
"""Of these it is waited until they are mended by the clock; all others go the same ways."""


class Scene:
    """A sandbox with a published port beside another, and what of it can be damaged.

    ``traffic`` is what serves in it, and looks whether it does.
    """

    def __init__(self, api, installation, make, traffic=None, *, port=18900):
        self.api, self._installation, self.traffic, self._port = api, installation, traffic, port
        self.network = make.network(enable_ipv6=True)
        self.box = make.sandbox(on=[self.network], ports=[{"container_port": 80, "host_port": port}])
        self.other = make.sandbox(on=[self.network])
        (self.endpoint,) = self.box["endpoints"]
        self.gateway = self.network["ipam"]["pools"][0]["gateway"]
        self.ids = {
            "node": api.node,
            "network": self.network["id"],
            "endpoint": self.endpoint["id"],
            "sandbox": self.box["id"],
        }
        self._words = {
            "host_ifname": self._host_ifname(),
            "bridge": f"br-{self.network['id'][:12]}",
            "key": self.box["key"],
            "hosts": self.box["hosts_path"],
            "resolv": self.box["resolv_conf_path"],
        }

    def about(self, whose):
        return {self.ids[each] for each in whose.split(" or ")}

    def _host_ifname(self):
        aliases = {link.get("ifalias"): link["ifname"] for link in self.api.ip("link show")}
        return next(name for alias, name in aliases.items() if alias and self.endpoint["id"] in alias)

    def damage(self, command):
        key = self.box["key"] if command.startswith("@") else None
        self._run(command.lstrip("@").format(**self._words), key)

    def _run(self, command, key):
        inside = ["nsenter", f"--net={self.api.path(key)}"] if key else []
        subprocess.run(self._installation.entering(*inside, "sh", "-c", command), check=True, timeout=30)

    def serve(self):
        self.traffic.serve(self.box, 80, "eighty ")

    def answers(self):
        return all(
            (self.traffic.fetch(host, port, box, patience_s=1) or "").startswith("eighty ")
            for host, port, box in (
                (self.gateway, self._port, None),
                (self.endpoint["ipv4_address"].partition("/")[0], 80, self.other),
                (self.endpoint["ipv6_address"].partition("/")[0], 80, self.other),
            )
        )


@pytest.fixture
def scene(api, installation, make, traffic):
    return Scene(api, installation, make, traffic)


@pytest.fixture(scope="module")
def place(api, installation, make_for_module):
    return Scene(api, installation, make_for_module, port=18901)


@pytest.fixture
def lasting_scene(place, traffic):
    """The same for many tests, each of which leaves it as it was; nobody serves in it yet."""
    place.traffic = traffic
    return place


def differences(api, **body):
    return [(each["worker"], each["id"], each["repaired"]) for each in api.ask("system.check", body)["differences"]]


@pytest.mark.parametrize("what", BY_ITSELF)
def test_damage_is_mended_and_published(api, scene, patiently, what):
    command, about = DAMAGES[what]
    if what != "namespace":
        scene.serve()
        assert scene.answers()
    patiently(lambda: differences(api, repair=False) == [])
    with api.recording() as events, api.unchanged():
        scene.damage(command)
        patiently(lambda: {"drift.repaired"} <= {each.what for each in events if each.about in scene.about(about)})
        if what == "namespace":
            scene.serve()
        patiently(scene.answers)
        patiently(lambda: differences(api, repair=False) == [])
    drift = [each for each in events if each.what.startswith("drift")]
    told = [each.what for each in drift if each.about in scene.about(about)]
    assert told[:2] == ["drift.found", "drift.repaired"], "found comes first"
    assert len({each.message_id for each in drift}) == len(drift)
    for each in drift:
        body = each.body
        assert body["node"] == api.node
        assert body["object"]["id"] == each.about
        for difference in body["object"]["differences"]:
            assert difference["value"]
            assert difference["repaired"] is True
            assert difference["node"] == api.node
    assert all(each.what.startswith("drift") for each in events), "nobody asked for a change"


@pytest.mark.parametrize("what", DAMAGES)
def test_check_shows_damage_without_mending_it_and_mends_it_when_told(api, lasting_scene, patiently, what):
    scene, (command, about) = lasting_scene, DAMAGES[what]
    patiently(lambda: differences(api, repair=False) == [])

    def damaged():
        """Damage and look at once: a comparison by the clock may come in between, once in a while."""
        scene.damage(command)
        before = api.kernel()
        found = differences(api, repair=False)
        return found if api.kernel() == before else None

    found = patiently(damaged)
    assert scene.about(about) & {identity for _, identity, _ in found}
    assert not any(repaired for _, _, repaired in found)
    scene.damage(command) if what == "hosts file" else None
    mended = differences(api)
    assert all(repaired for _, _, repaired in mended)
    assert differences(api) == []
    scene.serve()
    patiently(scene.answers)


def test_strangers_are_never_touched(api, scene, patiently):
    strange = "nft 'table inet mine { chain c { type filter hook input priority 5; ip saddr 192.0.2.1 drop; }; }'"
    api.sh(f"{strange}; ip link add br-mine type bridge; ip addr add 192.0.2.9/32 dev lo")
    try:
        before = (api.sh("nft list table inet mine"), api.ip("addr show br-mine"))
        with api.recording() as events:
            scene.damage("ip link del {host_ifname}")
            patiently(lambda: "drift.repaired" in {each.what for each in events})
        assert (api.sh("nft list table inet mine"), api.ip("addr show br-mine")) == before
        patiently(lambda: differences(api, repair=False) == [])
    finally:
        api.sh("nft delete table inet mine; ip link del br-mine; ip addr del 192.0.2.9/32 dev lo")


def test_what_cannot_be_mended_is_said_once_and_by_every_check(api, scene, patiently):
    bridge = f"br-{scene.network['id'][:12]}"
    with api.recording() as events:
        replace = f"ip link del {bridge}; ip link add {bridge} type veth peer name not-ours"
        patiently(lambda: api.sh(replace, check=False).returncode == 0)  # again, when it was mended in between
        try:
            patiently(lambda: [each for each in events if each.about == scene.network["id"]])
            shown = api.ask("system.check")["differences"]
            reasons = [each["reason"] for each in shown if each["id"] == scene.network["id"]]
            assert any(bridge in reason for reason in reasons)
        finally:
            api.sh("ip link del not-ours")
        patiently(lambda: "drift.repaired" in {each.what for each in events if each.about == scene.network["id"]})
    told = [each for each in events if each.about == scene.network["id"] and each.what == "drift.found"]
    unrepaired = [each for each in told if not each.body["object"]["differences"][0]["repaired"]]
    assert len(unrepaired) == 1, "said once, however often it was found"


def test_a_worker_that_does_not_answer_is_named(own_installation):
    process = own_installation.pid("cnm-port-mapper")
    os.kill(process, signal.SIGSTOP)
    try:
        shown, _ = own_installation.ask("system.check", {"repair": False}, headers={"Cnm-Deadline-Ms": "3000"})
    finally:
        os.kill(process, signal.SIGCONT)
    assert shown["compared"] == ["cnm-ipam", "cnm-driver-bridge", "cnm-resolver", "cnm-sandbox"]
    (warning,) = shown["warnings"]
    assert "cnm-port-mapper of node 'n1'" in warning
