"""Do the verbs say what the API says, and exit as they should?"""

import json
import signal
import subprocess
from contextlib import contextmanager

import pytest


@contextmanager
def foreign(installation):
    """Run a process with a network namespace of its own; gives its id."""
    command = ("nsenter", f"--net={installation.namespace}", "unshare", "--net", "sh", "-c", "echo there; read line")
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"there\n"
        yield process.pid
        process.stdin.close()


def test_network_from_create_to_rm(installation):
    words = ("--subnet", "172.28.0.0/16", "--ip-range", "172.28.5.0/24", "--gateway", "172.28.5.254")
    more = ("--aux-address", "router=172.28.1.5", "--internal", "--label", "tier=front", "--opt")
    option = "com.docker.network.bridge.name=br-verbs"
    made = installation.cnm("network", "create", *words, *more, option, "verbs", check=True)
    body = json.loads(installation.cnm("network", "inspect", "-o", "json", "verbs", check=True).stdout)
    assert body == installation.ask("network.get", {"network": "verbs"})[0]
    assert body["id"] == made.stdout.strip()
    assert body["ipam"]["pools"][0]["aux_addresses"] == {"router": "172.28.1.5"}
    assert (body["internal"], body["labels"]) == (True, {"tier": "front"})
    listed = installation.cnm("network", "ls", "--filter", "name=verbs", check=True).stdout.splitlines()
    assert listed[0].startswith("NETWORK ID")
    assert listed[1].split()[:4] == [body["id"][:12], "verbs", "bridge", "local"]
    assert installation.cnm("network", "rm", "verbs", check=True).stdout == "verbs\n"


def test_configuration_and_what_is_made_from_it(installation):
    words = ("--config-only", "--subnet", "10.82.0.0/24", "-o", "com.docker.network.driver.mtu=1400")
    installation.cnm("network", "create", *words, "--label", "tier=held", "verbs-held", check=True)
    installation.cnm("network", "create", "--config-from", "verbs-held", "--attachable", "verbs-web", check=True)
    bodies = json.loads(
        installation.cnm("network", "inspect", "-o", "json", "verbs-held", "verbs-web", check=True).stdout
    )
    assert [(body["config_only"], body["config_from"]) for body in bodies] == [(True, None), (False, "verbs-held")]
    assert bodies[1]["ipam"]["pools"][0]["subnet"] == "10.82.0.0/24"
    refused = installation.cnm("network", "rm", "verbs-held")
    assert (refused.returncode, refused.stdout, refused.stderr.count("\n")) == (1, "", 1)
    assert "verbs-web" in refused.stderr
    one_missing = installation.cnm("network", "inspect", "verbs-held", "absent")
    assert (one_missing.returncode, one_missing.stderr) == (1, "cnm: no network 'absent'\n")
    assert "verbs-held" in one_missing.stdout
    listed = installation.cnm("network", "ls", "-q", "--filter", "label=tier=held", "-f", "dangling=true", check=True)
    assert listed.stdout.split() == [bodies[1]["id"][:12]]
    for words in (("-f", "colour=red"), ("-f", "dangling=maybe")):
        refused = installation.cnm("network", "ls", *words)
        assert (refused.returncode, refused.stderr.count("\n")) == (1, 1)
        assert words[1].partition("=")[0] in refused.stderr
    for expected in (bodies[1], bodies[0]):
        pruned = installation.cnm("network", "prune", "-f", "--filter", "label=tier=held", check=True)
        assert pruned.stdout.split() == [expected["id"]]


def test_network_is_updated(installation):
    words = ("--label", "a=1", "--label", "b=2", "--dns-ttl", "5")
    installation.cnm("network", "create", *words, "verbs-new", check=True)
    words = ("-o", "com.docker.network.driver.mtu=1400", "--label-rm", "a", "--label-add", "c=3")
    more = ("--dns-search", "corp.example", "--subnet", "10.83.0.0/24")
    done = installation.cnm("network", "update", *words, *more, "verbs-new", check=True)
    assert (done.stdout, done.stderr) == ("verbs-new\n", "")
    body = installation.ask("network.get", {"network": "verbs-new"})[0]
    assert (body["labels"], body["revision"]) == ({"b": "2", "c": "3"}, 2)
    assert body["options"] == {"com.docker.network.driver.mtu": "1400"}
    assert (body["dns"]["ttl"], body["dns"]["search"]) == (5, ["corp.example"])
    assert body["ipam"]["pools"][1]["subnet"] == "10.83.0.0/24"
    for words in (("--revision", "1", "--label-add", "d=4"), ("-o", "colour=red"), ("--subnet", "10.83.0.0/25")):
        refused = installation.cnm("network", "update", *words, "verbs-new")
        assert (refused.returncode, refused.stdout, refused.stderr.count("\n")) == (1, "", 1)
    assert installation.cnm("network", "update").returncode == 2
    assert installation.cnm("network", "update", "--label-add", "=x", "verbs-new").returncode == 2
    assert installation.ask("network.get", {"network": "verbs-new"})[0] == body
    installation.cnm("network", "rm", "verbs-new", check=True)


def test_connect_and_disconnect(installation):
    installation.cnm("network", "create", "--subnet", "10.81.0.0/24", "joined", check=True)
    installation.cnm("sandbox", "create", "joiner", check=True)
    done = installation.cnm(
        "network", "connect", "--ip", "10.81.0.9", "--alias", "al", "joined", "joiner", check=True
    )
    assert done.stdout == ""
    endpoints = json.loads(installation.cnm("endpoint", "ls", "joined", "-o", "json", check=True).stdout)["endpoints"]
    assert [(each["ipv4_address"], each["aliases"]) for each in endpoints] == [("10.81.0.9/24", ["al"])]
    refused = installation.cnm("network", "rm", "joined")
    assert (refused.returncode, refused.stdout, refused.stderr.count("\n")) == (1, "", 1)
    installation.cnm("network", "disconnect", "joined", "joiner", check=True)
    installation.cnm("sandbox", "rm", "joiner", check=True)
    installation.cnm("network", "rm", "joined", check=True)


def test_endpoints_and_sandboxes_are_changed(installation):
    installation.cnm("network", "create", "--subnet", "10.82.0.0/24", "changing", check=True)
    installation.cnm("sandbox", "create", "--netns-later", "changed", check=True)
    interface = ("--link-local-ip", "169.254.9.9", "--route", "10.250.0.0/16,10.82.0.9", "--route", "10.251.0.0/16")
    installation.cnm("network", "connect", *interface, "changing", "changed", check=True)
    with foreign(installation) as pid:
        installation.cnm("sandbox", "adopt", "--pid", str(pid), "changed", check=True)
    for words in (("--alias", "al", "--not-ready"), ("--label", "a=b"), ("--no-alias", "--ready")):
        installation.cnm("endpoint", "update", *words, "changing", "changed", check=True)
    shown = installation.ask("endpoint.get", {"network": "changing", "endpoint": "changed"})[0]
    assert (shown["aliases"], shown["labels"], shown["ready"]) == ([], {"a": "b"}, True)
    assert shown["link_local_addresses"] == ["169.254.9.9"]
    assert [route["gateway"] for route in shown["routes"]] == ["10.82.0.9", None]
    words = ("--hostname", "new", "--dns", "192.0.2.53", "--add-host", "x:192.0.2.1")
    installation.cnm("sandbox", "update", *words, "changed", check=True)
    installation.cnm("sandbox", "update", "--dns-search", "example.org", "changed", check=True)
    box = installation.ask("sandbox.get", {"sandbox": "changed"})[0]
    assert box["hostname"] == "new"
    assert (box["dns"]["servers"], box["dns"]["search"]) == (["192.0.2.53"], ["example.org"])
    assert installation.cnm("sandbox", "stats", "changed", check=True).stdout.splitlines()[1].startswith("eth0 ")
    counted = json.loads(installation.cnm("sandbox", "stats", "-o", "json", "changed", check=True).stdout)
    assert [each["endpoint"] for each in counted["interfaces"]] == [shown["id"]]
    reasons = installation.cnm("network", "drops", "changing", check=True).stdout
    assert "direct" in reasons
    assert "isolation" in reasons
    installation.cnm("sandbox", "rm", "changed", check=True)
    installation.cnm("network", "rm", "changing", check=True)


def test_several_arguments_are_all_done_and_each_failure_is_told(installation):
    installation.cnm("sandbox", "create", "one", check=True)
    installation.cnm("sandbox", "create", "two", check=True)
    done = installation.cnm("sandbox", "rm", "one", "absent1", "two", "absent2")
    assert (done.returncode, done.stdout) == (1, "one\ntwo\n")
    assert done.stderr == "cnm: no sandbox 'absent1'\ncnm: no sandbox 'absent2'\n"


def test_sandbox_that_cannot_be_connected_is_not_made(installation):
    done = installation.cnm("sandbox", "create", "--network", "absent", "half")
    assert (done.returncode, done.stderr) == (1, "cnm: no network 'absent'\n")
    assert "half" not in installation.sandboxes()


def test_endpoint_made_joined_left_and_removed(installation):
    installation.cnm("network", "create", "steps", check=True)
    installation.cnm("sandbox", "create", "stepper", check=True)
    for words in (("create", "steps", "ep"), ("join", "steps", "ep", "stepper")):
        installation.cnm("endpoint", *words, check=True)
    shown = installation.cnm("endpoint", "ls", "steps", check=True).stdout.splitlines()[1].split()
    assert (shown[1:4], shown[-1]) == (["ep", "steps", "stepper"], "joined")
    for words in (("leave", "steps", "ep", "stepper"), ("rm", "steps", "ep")):
        installation.cnm("endpoint", *words, check=True)
    installation.cnm("sandbox", "rm", "stepper", check=True)
    installation.cnm("network", "rm", "steps", check=True)


def test_port_ls_shows_what_is_bound(installation):
    words = ("--network", "bridge", "-p", "127.0.0.1:8181:80")
    installation.cnm("sandbox", "create", *words, "portly", check=True)
    ports = json.loads(installation.cnm("port", "ls", "portly", "-o", "json", check=True).stdout)["ports"]
    assert [(port["name"], port["host_ip"], port["host_port"]) for port in ports] == [("portly", "127.0.0.1", 8181)]
    assert "127.0.0.1:8181" in installation.cnm("port", "ls", check=True).stdout
    installation.cnm("sandbox", "rm", "portly", check=True)


def test_ways_and_ports_are_explained(installation):
    words = ("--network", "bridge", "-p", "127.0.0.1:8195:80")
    installation.cnm("sandbox", "create", *words, "puzzled", check=True)
    stopped = installation.cnm("explain", "puzzled", "nonesuch", "--port", "80", check=True).stdout
    assert "stopped by name" in stopped
    assert "NXDOMAIN" in stopped
    assert "it gets there" in installation.cnm("explain", "puzzled", "127.0.0.1", check=True).stdout
    told = installation.cnm("explain", "--port", "8195", check=True).stdout
    assert "puzzled: 127.0.0.1:8195/tcp" in told
    asked = ("--port", "8195", "--protocol", "tcp", "-o", "json")
    body = json.loads(installation.cnm("explain", *asked, check=True).stdout)
    assert body == installation.ask("system.explain", {"port": 8195})[0]
    assert installation.cnm("explain").returncode == 1
    assert installation.cnm("explain", "puzzled", "x", "--protocol", "icmp").returncode == 2
    installation.cnm("sandbox", "rm", "puzzled", check=True)


def test_ports_are_published_and_closed(installation):
    installation.cnm("sandbox", "create", "--network", "bridge", "opening", check=True)
    words = ("publish", "opening", "127.0.0.1:8191:80", "127.0.0.1:8192:81/udp")
    shown = installation.cnm("sandbox", *words, "--allow", "127.0.0.0/8", check=True).stdout
    assert shown.splitlines() == ["127.0.0.1:8191->80/tcp", "127.0.0.1:8192->81/udp"]
    assert "127.0.0.0/8" in installation.cnm("port", "ls", "opening", check=True).stdout
    taken = installation.cnm("sandbox", "publish", "opening", "127.0.0.1:8191:82")
    assert (taken.returncode, "8191" in taken.stderr) == (1, True)
    installation.cnm("sandbox", "unpublish", "opening", "8191:80", check=True)
    assert "8191" not in installation.cnm("port", "ls", "opening", check=True).stdout
    gone = installation.cnm("sandbox", "unpublish", "opening", "80")
    assert (gone.returncode, "80/tcp" in gone.stderr) == (1, True)
    assert installation.cnm("sandbox", "publish", "opening", "none").returncode == 2
    installation.cnm("sandbox", "rm", "opening", check=True)


@pytest.mark.parametrize(
    ("words", "subject"),
    [
        (("network", "ls"), "network.list"),
        (("sandbox", "ls"), "sandbox.list"),
        (("endpoint", "ls"), "endpoint.list"),
        (("ipam", "ls"), "ipam.pool.list"),
        (("ipam", "spaces"), "ipam.space.list"),
        (("info",), "system.info"),
    ],
)
def test_json_is_the_very_body(installation, words, subject):
    shown = json.loads(installation.cnm(*words, "-o", "json", check=True).stdout)
    assert shown == installation.ask(subject)[0]
    assert installation.cnm(*words, check=True).stdout.isprintable() is False  # a table: lines


def test_nodes_are_shown(installation):
    line = installation.cnm("node", "ls", check=True).stdout.splitlines()[1].split()
    assert line[:3] == ["n1", "ready", installation.node_address]
    shown = json.loads(installation.cnm("node", "inspect", "n1", "-o", "json", check=True).stdout)
    assert shown["name"] == "n1"


def test_prune_removes_what_nothing_uses(installation):
    made = installation.cnm("network", "create", "idle", check=True).stdout.strip()
    assert made in installation.cnm("network", "prune", "-f", check=True).stdout.split()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_events_are_followed_until_a_signal(installation, number):
    first = installation.cnm("network", "create", "told1", check=True).stdout.strip()
    with installation.running("events", "--since", "1h", "-o", "json") as process:
        _read_until(process.stdout, first)
        second = installation.cnm("network", "create", "told2", check=True).stdout.strip()
        event = _read_until(process.stdout, second)
        assert event["subject"] == f"cnm.v1.event.network.created.{second}"
        assert event["object"]["name"] == "told2"
        process.send_signal(number)
        assert process.wait(10) == 0
        assert process.stderr.read() == ""
    installation.cnm("network", "rm", "told1", "told2", check=True)


def test_events_go_on_after_nats_came_back(own_installation):
    import os

    first = own_installation.cnm("network", "create", "told1", check=True).stdout.strip()
    with own_installation.running("events", "--since", "1h", "-o", "json") as process:
        _read_until(process.stdout, first)
        os.kill(own_installation.pid("nats"), signal.SIGKILL)
        second = ""
        while not second:
            second = own_installation.cnm("network", "create", "told2").stdout.strip()
        assert _read_until(process.stdout, second)["object"]["id"] == second
        process.terminate()
        assert process.wait(10) == 0


def test_trace_shows_a_request_through_the_workers(traced_installation):
    with traced_installation.running("trace", "-o", "json") as process:
        assert process.stderr.readline() == "waiting for requests\n"
        traced_installation.cnm("network", "create", "traced", check=True)
        spans = json.loads(process.stdout.readline())
        assert {"cnm-controller", "cnm-ipam", "cnm-driver-bridge"} <= {span["service"] for span in spans}
        steps = [event["attributes"]["cnm.step"] for span in spans for event in span.get("events", ())]
        assert any("ip link add br-" in step for step in steps)
        process.terminate()
        assert process.wait(10) == 0


def _read_until(lines, id):
    """Read events until one about a network is made."""
    for line in lines:
        event = json.loads(line)
        if event["subject"].startswith("cnm.v1.event.network.created.") and event["object"]["id"] == id:
            return event
    raise AssertionError(f"no event about {id}")
