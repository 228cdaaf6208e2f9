"""Workers die, idle and at work: every request gets a true answer, and afterwards everything agrees."""

import asyncio
import contextlib
import os
import re
import signal
import time
from ipaddress import ip_interface, ip_network
from pathlib import Path

import nats
import pytest

WORKERS = ("controller", "ipam", "sandbox", "driver-bridge", "port-mapper", "resolver")


def worker_pids(api, worker):
    """Return the processes of a worker in the installation."""
    inside = Path(api.namespace).readlink()
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            if (entry / "ns/net").readlink() == inside and is_worker(entry, worker):
                found.append(int(entry.name))
    return found


def is_worker(entry, worker):
    command = (entry / "cmdline").read_bytes().decode().split("\0")
    return any(word.endswith((f"cnm-{worker}", f"cnm_{worker.replace('-', '_')}")) for word in command[:5])


async def persist(api, verb, body, *, tries=8):
    """Ask the way that a careful client does: under one request id, again while no answer or a passing one came."""
    headers = {"Cnm-Request-Id": api.name("careful"), "Cnm-Deadline-Ms": "3000"}
    for left in reversed(range(tries)):
        try:
            reply, _ = await api.send(verb, body, headers, timeout=3.5)
        except (nats.errors.NoRespondersError, nats.errors.TimeoutError):
            await asyncio.sleep(0.05)
            continue
        if not left or "error" not in reply or reply["error"]["code"] not in ("unavailable", "timeout"):
            return reply
        await asyncio.sleep(0.05)
    return None


def kill(api, worker):
    (pid,) = worker_pids(api, worker)
    os.kill(pid, signal.SIGKILL)
    return pid


def consistent(api):
    """Return what does not agree between the lists, IPAM and the kernel, in words."""
    lists = api.lists()
    networks = {each["id"]: each for each in lists["networks"]}
    endpoints = {each["id"]: each for each in lists["endpoints"]}
    sandboxes = {each["id"]: each for each in lists["sandboxes"]}
    wrong = []
    for network in networks.values():
        held = [each for each in endpoints.values() if each["network"] == network["id"]]
        if {each["id"] for each in held} != {each["id"] for each in network["endpoints"]}:
            wrong.append(f"{network['name']} shows other endpoints")
        for pool in network["ipam"]["pools"]:
            inside = ip_network(pool["subnet"])
            mine = filter(None, (each[f"ipv{inside.version}_address"] for each in held))
            mine = [address for address in mine if ip_interface(address) in inside]
            wanted = len(mine) + bool(pool["gateway"]) + len(pool["aux_addresses"])
            if pool["in_use"] != wanted:
                wrong.append(f"{network['name']}: {pool['in_use']} addresses in use, not {wanted}")
    owned = [each for each in lists["pools"] if each["owner"]]
    if len(owned) != sum(len(each["ipam"]["pools"]) for each in networks.values()):
        wrong.append(f"pools without a network: {owned}")
    links = {each["ifalias"]: each for each in api.ip("link show") if each.get("ifalias", "").startswith("cnm:")}
    veths = {alias.partition(":")[2] for alias, each in links.items() if each["ifname"].startswith("veth")}
    joined = {each["id"] for each in endpoints.values() if each["driver_info"]["host_ifname"]}
    if veths != joined:
        wrong.append(f"links: stray {veths - joined}, missing {joined - veths}")
    ends = [each for each in api.ip("link show type veth") if each["ifname"].startswith("veth")]
    stray = [each["ifname"] for each in ends if not each.get("ifalias", "").startswith("cnm:")]
    if stray:
        wrong.append(f"unmarked links {stray}")
    bridges = {each["ifname"] for each in api.ip("link show type bridge")}
    wanted = {each["options"].get("com.docker.network.bridge.name", f"br-{each['id'][:12]}")
              for each in networks.values() if each["driver"] == "bridge" and each["ipam"]["pools"]}  # fmt: skip
    if bridges != wanted:
        wrong.append(f"bridges {bridges ^ wanted}")
    for sandbox in sandboxes.values():
        if sandbox["use_default_sandbox"]:
            continue
        path = Path(api.path(sandbox["key"]))
        if not path.exists():
            wrong.append(f"{sandbox['name']} has no namespace")
            continue
        there = sorted(each["ifname"] for each in api.ip("link show", sandbox["key"]))
        if there != sorted(["lo", *(each["ifname"] for each in sandbox["endpoints"] if each["ifname"])]):
            wrong.append(f"{sandbox['name']}: interfaces {there}")
    homes = {Path(api.path(each["key"])).parent for each in sandboxes.values() if "/netns/" in each["key"]}
    for home in homes:
        left = {each.name for each in home.iterdir()} - {Path(each["key"]).name for each in sandboxes.values()}
        if left:
            wrong.append(f"namespaces {left}")
    rules = "\n".join(api.rules())
    words = {word for word in rules.replace('"', " ").replace("-", " ").split() if re.fullmatch("[0-9a-f]{12}", word)}
    wrong += [f"rules of a network {word}" for word in words if not any(each.startswith(word) for each in networks)]
    return wrong


def agree(api, patience_s=12):
    until = time.monotonic() + patience_s
    while wrong := consistent(api):
        assert time.monotonic() < until, wrong
        time.sleep(0.05)


@pytest.mark.parametrize("worker", WORKERS)
def test_an_idle_worker_dies_and_comes_back(api, make, worker, patiently):
    network = make.network()
    box = make.sandbox(on=[network], ports=[{"container_port": 80}])
    before = api.world()
    old = kill(api, worker)
    other = api.run(persist(api, "sandbox.create", {"name": api.name("late")}))
    shown = api.run(persist(api, "sandbox.connect", {"sandbox": other["id"], "network": network["id"]}))
    assert shown["state"] == "joined"
    assert patiently(lambda: [pid for pid in worker_pids(api, worker) if pid != old])
    api.sh(f"ping -c1 -W2 {box['endpoints'][0]['ipv4_address'].partition('/')[0]}", other["key"])
    api.ask("sandbox.delete", {"sandbox": other["id"]})
    agree(api)
    after = api.world()
    for what in ("networks", "sandboxes", "endpoints", "links", "rules"):
        patiently(lambda what=what: api.world()[what] == before[what])
    assert after["pools"] == before["pools"]


@pytest.mark.parametrize("worker", WORKERS)
def test_a_worker_dies_in_the_middle_of_twenty_attaches(api, make, worker, patiently):
    network = make.network()
    boxes = [make.sandbox(ports=[{"container_port": 80}]) for _ in range(20)]

    async def storm():
        async def murder():
            await asyncio.sleep(0.03)
            return await asyncio.to_thread(kill, api, worker)

        asked = [{"sandbox": box["id"], "network": network["id"]} for box in boxes]
        return await asyncio.gather(murder(), *(persist(api, "sandbox.connect", body) for body in asked))

    _, *replies = api.run(storm())
    for box, reply in zip(boxes, replies, strict=True):
        assert reply is not None, "a request was never answered"
        assert "error" not in reply, reply
        shown = api.ask("sandbox.get", {"sandbox": box["id"]})
        assert [each["id"] for each in shown["endpoints"]] == [reply["id"]]
        assert shown["ports"]
    assert patiently(lambda: worker_pids(api, worker))
    agree(api)
    make.end()
    agree(api)


@pytest.mark.parametrize("worker", ["sandbox", "driver-bridge", "port-mapper", "resolver", "ipam"])
def test_a_request_that_meets_a_dying_worker_is_done_or_truly_refused(api, make, worker, patiently):
    network = make.network()
    boxes = [make.sandbox(ports=[{"container_port": 80}]) for _ in range(10)]

    async def storm():
        async def murder():
            await asyncio.sleep(0.02)
            return await asyncio.to_thread(kill, api, worker)

        asked = [("sandbox.connect", {"sandbox": box["id"], "network": network["id"]}) for box in boxes]
        return await asyncio.gather(murder(), *(api.send(*each, timeout=15) for each in asked))

    _, *replies = api.run(storm())
    for box, (reply, _) in zip(boxes, replies, strict=True):
        joined = api.ask("sandbox.get", {"sandbox": box["id"]})["endpoints"]
        if "error" in reply:
            assert reply["error"]["code"] in ("unavailable", "timeout"), reply
            assert joined == [], reply
        else:
            assert [each["id"] for each in joined] == [reply["id"]]
    agree(api)
    make.end()
    agree(api)


@pytest.mark.parametrize("worker", ["controller", "ipam", "driver-bridge", "sandbox", "resolver"])
@pytest.mark.parametrize("after_s", [0.004, 0.015])
def test_a_change_that_meets_a_dying_worker_is_whole_or_not_at_all(api, make, worker, after_s, patiently):
    network = make.network()
    boxes = [make.sandbox(on=[network]) for _ in range(6)]
    bridge = f"br-{network['id'][:12]}"
    changes = {
        "options": {"com.docker.network.driver.mtu": 1400},
        "add_pools": [{"subnet": "10.79.0.0/24"}],
        "dns": {"search": ["changed.example"]},
    }

    async def storm():
        async def murder():
            await asyncio.sleep(after_s)
            return await asyncio.to_thread(kill, api, worker)

        # Who dies with the request in hand never answers it.
        timeout_s = 3 if worker == "controller" else 15
        asked = api.send("network.update", {"network": network["id"], **changes}, timeout=timeout_s)
        return await asyncio.gather(murder(), asked, return_exceptions=True)

    _, answer = api.run(storm())
    assert patiently(lambda: worker_pids(api, worker))
    patiently(lambda: "id" in api.run(persist(api, "network.get", {"network": network["id"]})))
    agree(api)

    def stands():
        """Return whether all is changed, none of it, or None while it is neither."""
        shown = api.ask("network.get", {"network": network["id"]})
        links = [each for each in api.ip("link show") if each["ifname"] == bridge or each.get("master") == bridge]
        mtus = {each["mtu"] for each in links} | {
            each["mtu"] for box in boxes for each in api.ip("link show", box["key"]) if each["ifname"] == "eth0"
        }
        searches = {"changed.example" in Path(api.path(box["resolv_conf_path"])).read_text() for box in boxes}
        added = "10.79.0.1/24" in api.sh(f"ip -o addr show {bridge}")
        seen = (shown["revision"], len(shown["ipam"]["pools"]), mtus, searches, added)
        return {(2, 2, (1400,), (True,), True): "all", (1, 1, (1500,), (False,), False): "none"}.get(
            (*seen[:2], tuple(mtus), tuple(searches), added)
        )

    found = patiently(stands)
    if not isinstance(answer, BaseException):
        reply, _ = answer
        assert found == ("none" if "error" in reply else "all"), reply
        assert reply.get("error", {}).get("code") in (None, "unavailable", "timeout")
    make.end()
    agree(api)
