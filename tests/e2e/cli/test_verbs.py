"""Do the verbs say what the API says, and exit as they should?"""

import json
import signal

import pytest


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
        assert any("ip link add br-" in span["attributes"].get("steps", "") for span in spans)
        process.terminate()
        assert process.wait(10) == 0


def _read_until(lines, id):
    """Read events until one about a network is made."""
    for line in lines:
        event = json.loads(line)
        if event["subject"].startswith("cnm.v1.event.network.created.") and event["object"]["id"] == id:
            return event
    raise AssertionError(f"no event about {id}")
