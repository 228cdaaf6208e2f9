"""Requests as such: repeated ones, hurried ones, and those of a program without a NATS library (API 1 and 12)."""

import contextlib
import json
import socket
import threading
from pathlib import Path
from urllib.parse import urlsplit

import pytest


def with_id(request_id):
    return {"Cnm-Request-Id": request_id}


def test_a_repeat_gets_the_first_reply_again_and_nothing_is_done_twice(api, make):
    network, box = make.network(), make.sandbox()
    on = {"sandbox": box["id"], "network": network["id"]}
    name = api.name()
    for verb, body in (
        ("network.create", {"name": name}),
        ("sandbox.create", {"name": name}),
        ("sandbox.connect", on),
        ("endpoint.create", {"network": network["id"], "name": name}),
        ("endpoint.join", {"network": network["id"], "endpoint": name, "sandbox": name}),
        ("endpoint.leave", {"network": network["id"], "endpoint": name, "sandbox": name}),
        ("endpoint.delete", {"network": network["id"], "endpoint": name}),
        ("sandbox.disconnect", on),
        ("sandbox.delete", {"sandbox": name}),
        ("network.delete", {"network": name}),
        ("ipam.pool.request", {"space": name, "pool": "10.0.0.0/24"}),
        ("ipam.address.request", {"pool_id": f"{name}/10.0.0.0/24"}),
        ("ipam.address.release", {"pool_id": f"{name}/10.0.0.0/24", "address": "10.0.0.1"}),
        ("ipam.pool.release", {"pool_id": f"{name}/10.0.0.0/24"}),
    ):
        request_id = api.name("request")
        first = api.ask(verb, body, with_id(request_id))
        with api.unchanged():
            assert api.ask(verb, body, with_id(request_id)) == first, verb
            assert api.ask(verb, body, with_id(request_id)) == first, verb
            api.refused(verb, {**body, "labels": {"a": "b"}}, "conflict", request_id, headers=with_id(request_id))


def test_repeats_that_come_at_the_same_time_do_it_once(api, make):
    network, name = make.network(), api.name()
    replies = api.together(*[("network.create", {"name": name}, with_id(name))] * 5)
    assert len({json.dumps(reply) for reply, _ in replies}) == 1
    assert replies[0][0]["name"] == name
    box = make.sandbox()
    body = {"sandbox": box["id"], "network": network["id"]}
    replies = api.together(*[("sandbox.connect", body, with_id(name))] * 5)
    assert len({json.dumps(reply) for reply, _ in replies}) == 1
    assert replies[0][0]["sandbox"] == box["id"]
    api.ask("network.delete", {"network": name})


def test_a_refusal_is_replayed_with_its_headers(api, make):
    name = api.name()
    body = {"name": name, "driver": "bridge"}
    made = api.ask("network.create", body)
    first = api.refused("network.create", body, "conflict", headers=with_id(name))
    api.ask("network.delete", {"network": made["id"]})
    assert api.refused("network.create", body, "conflict", headers=with_id(name)) == first
    api.refused("network.get", {"network": name}, "not_found", name)


def test_a_request_id_counts_for_its_subject_only(api, make):
    name = api.name()
    made = api.ask("network.create", {"name": name}, with_id(name))
    box = api.ask("sandbox.create", {"name": name}, with_id(name))
    assert api.ask("sandbox.delete", {"sandbox": box["id"]}, with_id(name)) == {}
    assert api.ask("network.delete", {"network": made["id"]}, with_id(name)) == {}


@pytest.mark.parametrize("text", ["soon", "-1", "0", "1.5", "", " 5", "1e3", "0x10", "٣", "9" * 40])
def test_a_malformed_deadline_is_invalid(api, text):
    headers = {"Cnm-Deadline-Ms": text}
    with api.unchanged():
        if text.strip() != text or not text.isascii():
            # A header's value may be trimmed or refused on its way; what arrives is judged.
            return
        error = api.refused("network.create", {"name": "never"}, "invalid", text, headers=headers)
        (fault,) = error["details"]["fields"]
        assert (fault["field"], fault["value"]) == ("Cnm-Deadline-Ms", text)
        api.refused("network.list", {}, "invalid", headers=headers)


@pytest.mark.parametrize("deadline_ms", [1, 2, 4, 8, 16, 32])
def test_a_tiny_deadline_is_kept_or_undone_without_trace(api, make, patiently, deadline_ms):
    network, other, box = make.network(), make.network(), make.sandbox()
    idle = make.endpoint(other)
    before = api.world()
    hurry = {"Cnm-Deadline-Ms": str(deadline_ms)}
    name = api.name("hurried")
    asked = [
        (
            "network.create",
            {"name": name, "enable_ipv6": True},
            "network.delete",
            lambda made: {"network": made["id"]},
        ),
        (
            "sandbox.create",
            {"name": name, "ports": [{"container_port": 80}]},
            "sandbox.delete",
            lambda made: {"sandbox": made["id"]},
        ),
        (
            "sandbox.connect",
            {"sandbox": box["id"], "network": network["id"]},
            "sandbox.disconnect",
            lambda _: {"sandbox": box["id"], "network": network["id"]},
        ),
        (
            "endpoint.join",
            {"network": other["id"], "endpoint": idle["id"], "sandbox": box["id"]},
            "endpoint.leave",
            lambda _: {"network": other["id"], "endpoint": idle["id"], "sandbox": box["id"]},
        ),
        (
            "endpoint.create",
            {"network": network["id"], "name": name},
            "endpoint.delete",
            lambda made: {"endpoint": made["id"]},
        ),
    ]
    for verb, body, undo, key in asked:
        reply, headers = api.call(verb, body, hurry)
        if "error" in reply:
            assert reply["error"]["code"] == "timeout", reply
            assert headers["Nats-Service-Error-Code"] == "504"
        else:
            api.ask(undo, key(reply))

    def unrevised(world):
        text = json.dumps(
            {**world, "sandboxes": [{**each, "revision": 0} for each in world["sandboxes"]]}, sort_keys=True
        )
        shown = json.loads(text)
        for network in shown["networks"]:
            network["revision"] = 0
        for endpoint in shown["endpoints"]:
            endpoint["revision"] = 0
        return shown

    wanted = unrevised(before)
    with contextlib.suppress(AssertionError):
        patiently(lambda: unrevised(api.world()) == wanted, patience_s=8)
    after = unrevised(api.world())
    for what in wanted:
        assert after[what] == wanted[what], what
    make.connect(box, network)  # nothing is locked, no name is kept


class Stranger:
    """A client in thirty lines of socket: CONNECT, SUB, PUB, HPUB, MSG, HMSG."""

    def __init__(self, url, enter_namespace):
        enter_namespace()
        place = urlsplit(url)
        self._socket = socket.create_connection((place.hostname, place.port), timeout=15)
        self._file = self._socket.makefile("rb")
        assert self._line().startswith(b"INFO ")
        self._send(b'CONNECT {"verbose":false,"pedantic":false,"headers":true,"no_responders":true}\r\nPING\r\n')
        assert self._line() == b"PONG"
        self._send(b"SUB _INBOX.stranger.* 1\r\n")

    def _send(self, data):
        self._socket.sendall(data)

    def _line(self):
        return self._file.readline().rstrip(b"\r\n")

    def ask(self, subject, body, headers=b""):
        """Return the raw headers and the raw body of the reply."""
        if headers:
            block = b"NATS/1.0\r\n" + headers + b"\r\n\r\n"
            sizes = b"%d %d" % (len(block), len(block) + len(body))
            self._send(b"HPUB %s _INBOX.stranger.1 %s\r\n%s%s\r\n" % (subject, sizes, block, body))
        else:
            self._send(b"PUB %s _INBOX.stranger.1 %d\r\n%s\r\n" % (subject, len(body), body))
        while True:
            words = self._line().split()
            if words[0] == b"PING":
                self._send(b"PONG\r\n")
            elif words[0] == b"MSG":
                data = self._file.read(int(words[-1]) + 2)[:-2]
                return b"", data
            elif words[0] == b"HMSG":
                data = self._file.read(int(words[-1]) + 2)[:-2]
                return data[: int(words[-2])], data[int(words[-2]) :]
            else:
                raise AssertionError(words)

    def close(self):
        self._file.close()
        self._socket.close()


def test_a_program_that_speaks_the_bare_protocol_is_served(api):
    from_api = type(api).__init__.__globals__["enter"]
    failures = []

    def stranger():
        try:
            client = Stranger(api.url, lambda: from_api(api.namespace))
            try:
                for body in (b'{"name":"bare"}', b'{\n "name" : "bare"\n}'):
                    headers, reply = client.ask(b"cnm.v1.network.create", body)
                    assert headers == b""
                    made = json.loads(reply)
                    assert made["name"] == "bare"
                    headers, reply = client.ask(b"cnm.v1.network.create", body)
                    assert b"\r\nNats-Service-Error-Code: 409\r\n" in headers
                    assert b"\r\nNats-Service-Error: " in headers
                    assert json.loads(reply)["error"]["code"] == "conflict"
                    _, reply = client.ask(b"cnm.v1.network.list", b"")
                    assert made["id"] in [each["id"] for each in json.loads(reply)["networks"]]
                    _, reply = client.ask(b"cnm.v1.network.list", b"{}", b"traceparent: rubbish\r\nX-Else: 1")
                    assert json.loads(reply)["networks"]
                    deletion = json.dumps({"network": made["id"]}).encode()
                    # Headers' names are written as one likes.
                    _, reply = client.ask(
                        b"cnm.v1.network.delete", deletion, b"Cnm-Request-Id: bare-" + made["id"].encode()
                    )
                    assert json.loads(reply) == {}
                    _, reply = client.ask(
                        b"cnm.v1.network.delete", deletion, b"Cnm-Request-Id: bare-" + made["id"].encode()
                    )
                    assert json.loads(reply) == {}
                headers, reply = client.ask(b"cnm.v1.network.get", b"[1, 2")
                assert b"Nats-Service-Error-Code: 400" in headers
                assert json.loads(reply)["error"]["details"]["fields"]
            finally:
                client.close()
        except BaseException as error:  # noqa: BLE001  # told in the test's own thread
            failures.append(error)

    thread = threading.Thread(target=stranger)
    thread.start()
    thread.join()
    if failures:
        raise failures[0]


def test_a_message_without_reply_subject_is_carried_out(api, patiently):
    name = api.name()

    async def publish():
        await api.client.publish("cnm.v1.network.create", json.dumps({"name": name}).encode())

    api.run(publish())
    patiently(lambda: name in [each["name"] for each in api.ask("network.list")["networks"]])
    api.ask("network.delete", {"network": name})


@pytest.mark.parametrize("program", ["redis", "cnm-driver-bridge", "cnm-ipam"])
def test_the_deadline_is_kept_though_a_process_does_not_move(own_api, own_installation, frozen, patiently, program):
    """The reply comes while the process still stands still, and says what was waited for."""
    api = own_api
    api.ask("network.create", {"name": "net"})
    for number in range(2):
        api.ask("sandbox.create", {"name": f"box{number}"})
    on = {"sandbox": "box0", "network": "net"}
    pid = own_installation.pid(program)
    with frozen(pid):
        error = api.refused("sandbox.connect", on, "timeout", headers={**with_id("r"), "Cnm-Deadline-Ms": "3000"})
        assert {"redis": "Redis", "cnm-driver-bridge": "bridge.plug", "cnm-ipam": "ipam"}[program] in error["message"]
        assert is_stopped(pid)
    patiently(lambda: api.call("sandbox.connect", on, with_id("r"))[0].get("state") == "joined", patience_s=30)
    assert len(api.ask("endpoint.list")["endpoints"]) == 1
    api.ask("sandbox.delete", {"sandbox": "box0"})
    patiently(lambda: api.ask("system.check", {"repair": False})["differences"] == [])


def is_stopped(pid):
    return "T (stopped)" in Path(f"/proc/{pid}/status").read_text()
