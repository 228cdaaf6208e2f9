"""Each change is told exactly once, in order, after it is true (API 8 and 12)."""

import re
import secrets
from datetime import datetime

import nats
import pytest


def names(events):
    return [event.what for event in events]


def of_controller(events):
    return [event for event in events if not event.what.startswith(("pool.", "address."))]


def check_envelope(event):
    body = event.body
    assert {"id", "time", "node", "trace_id", "request_id", "object"} <= set(body)
    assert body["id"]
    assert event.message_id == body["id"]
    assert re.fullmatch(r"[0-9a-f]{32}", body["trace_id"])
    assert body["request_id"]
    assert datetime.fromisoformat(body["time"]).utcoffset().total_seconds() == 0
    assert isinstance(body["object"], dict)


def test_the_life_of_a_network_a_sandbox_and_an_endpoint(api, make):
    with api.recording() as events:
        network = make.network(ipam={"pools": [{"subnet": "10.97.0.0/24"}]})
        box = make.sandbox()
        joined = make.connect(box, network)
        network_then = api.ask("network.get", {"network": network["id"]})
        api.ask("sandbox.disconnect", {"sandbox": box["id"], "network": network["id"]})
        api.ask("sandbox.delete", {"sandbox": box["id"]})
        api.ask("network.delete", {"network": network["id"]})
    for event in events:
        check_envelope(event)
    assert len({event.body["id"] for event in events}) == len(events)
    ours = of_controller(events)
    assert names(ours) == [
        "network.created", "sandbox.created", "endpoint.created", "endpoint.joined", "endpoint.left",
        "endpoint.deleted", "sandbox.deleted", "network.deleted",
    ]  # fmt: skip
    assert [event.about for event in ours] == [
        network["id"], box["id"], *[joined["id"]] * 4, box["id"], network["id"],
    ]  # fmt: skip
    assert ours[0].body["object"] == network
    assert ours[1].body["object"] == box
    assert ours[1].body["node"] == api.node
    assert ours[3].body["object"] == joined
    assert ours[2].body["object"]["id"] == joined["id"]
    assert ours[4].body["object"]["state"] == "created"
    assert ours[5].body["object"]["id"] == joined["id"]
    assert network_then["endpoints"]
    pools = [event for event in events if event.what.startswith("pool.")]
    assert names(pools) == ["pool.requested", "pool.released"]
    assert len({event.about for event in pools}) == 1
    for event in pools:
        assert event.body["object"]["pool"] == "10.97.0.0/24"
    addresses = [event for event in events if event.what.startswith("address.")]
    assert {event.about for event in addresses} == {pools[0].about}
    taken = [
        event.body["object"]["address"].partition("/")[0] for event in addresses if event.what == "address.requested"
    ]
    given = [
        event.body["object"]["address"].partition("/")[0] for event in addresses if event.what == "address.released"
    ]
    assert joined["ipv4_address"].partition("/")[0] in taken
    assert joined["ipv4_address"].partition("/")[0] in given


def test_an_endpoint_that_is_created_joins_leaves_and_is_deleted(api, make):
    network, box = make.network(), make.sandbox()
    at = {"network": network["id"], "endpoint": "wanderer", "sandbox": box["id"]}
    with api.recording() as events:
        made = api.ask("endpoint.create", {"network": network["id"], "name": "wanderer"})
        joined = api.ask("endpoint.join", at)
        left = api.ask("endpoint.leave", at)
        api.ask("endpoint.delete", {"endpoint": made["id"]})
    ours = of_controller(events)
    assert names(ours) == ["endpoint.created", "endpoint.joined", "endpoint.left", "endpoint.deleted"]
    assert [event.body["object"] for event in ours[:3]] == [made, joined, left]
    assert names([event for event in events if event not in ours]) == ["address.requested", "address.released"]


def test_ports_are_told_with_their_bindings_once_a_request(api, make):
    network = make.network()
    with api.recording() as events:
        box = make.sandbox(on=[network], ports=[{"container_port": 80}, {"container_port": 53, "protocol": "udp"}])
        api.ask("sandbox.disconnect", {"sandbox": box["id"], "network": network["id"]})
        api.ask("sandbox.delete", {"sandbox": box["id"]})
    ports = [event for event in events if event.what.startswith("port.")]
    assert names(ports) == ["port.published", "port.unpublished"]
    for event in ports:
        check_envelope(event)
        assert event.about == box["id"]
        assert event.body["object"]["ports"] == box["ports"]
        assert event.body["node"] == api.node


def test_deleting_a_connected_sandbox_tells_of_its_endpoints_too(api, make):
    one, two = make.network(), make.network()
    box = make.sandbox(on=[one, two], ports=[{"container_port": 80}])
    with api.recording() as events:
        api.ask("sandbox.delete", {"sandbox": box["id"]})
    ours = names(of_controller(events))
    assert sorted(ours) == sorted(["port.unpublished", *["endpoint.left", "endpoint.deleted"] * 2, "sandbox.deleted"])
    assert ours[-1] == "sandbox.deleted"
    for endpoint in box["endpoints"]:
        about = [event.what for event in events if event.about == endpoint["id"]]
        assert about == ["endpoint.left", "endpoint.deleted"]
    assert names(events).count("address.released") == 2


def test_ipam_tells_of_its_clients(api):
    with api.recording() as events:
        pool = api.ask("ipam.pool.request", {"space": api.name("space"), "pool": "10.98.0.0/24"})["pool_id"]
        api.ask("ipam.address.request", {"pool_id": pool, "owner": "me"})
        api.ask("ipam.address.request", {"pool_id": pool, "owner": "me"})
        api.ask("ipam.address.release", {"pool_id": pool, "address": "10.98.0.1"})
        api.ask("ipam.pool.release", {"pool_id": pool})
    assert names(events) == ["pool.requested", "address.requested", "address.released", "pool.released"]
    assert {event.about for event in events} == {re.sub(r"[^a-zA-Z0-9_-]", "_", pool)}, "one token of a subject"
    assert {event.body["object"]["pool_id"] for event in events} == {pool}
    for event in events:
        check_envelope(event)


def test_refusals_and_readings_tell_nothing(api, make):
    network = make.network()
    with api.recording() as events:
        api.refused("network.create", {"name": network["name"]}, "conflict")
        api.refused("network.create", {"name": "x", "colour": 1}, "invalid")
        api.refused("network.delete", {"network": "bridge"}, "forbidden")
        api.refused("sandbox.connect", {"sandbox": "nonesuch", "network": network["id"]}, "not_found")
        api.refused("endpoint.create", {"network": network["id"], "name": "x", "ipv4_address": "9.9.9.9"}, "invalid")
        gateway = network["ipam"]["pools"][0]["gateway"]
        api.refused("endpoint.create", {"network": network["id"], "name": "x", "ipv4_address": gateway}, "conflict")
        api.lists()
    assert events == []


def test_the_clients_trace_and_request_are_in_the_events(api, make):
    trace, request = secrets.token_hex(16), api.name("request")
    headers = {"traceparent": f"00-{trace}-{secrets.token_hex(8)}-01", "Cnm-Request-Id": request}
    network, box = make.network(), make.sandbox()
    with api.recording() as events:
        name = api.name("net")
        made = api.ask("network.create", {"name": name}, headers)
        body = {"sandbox": box["id"], "network": network["id"]}
        api.ask("sandbox.connect", body, headers)
        api.ask("sandbox.disconnect", body, headers)
        api.ask("network.delete", {"network": made["id"]}, headers)
    assert {"network.created", "pool.requested", "endpoint.joined", "address.requested", "endpoint.left"} <= set(
        names(events)
    )
    for event in events:
        assert event.body["trace_id"] == trace, event
        assert event.body["request_id"] == request, event


def test_without_headers_trace_and_request_are_made_and_differ(api, make):
    with api.recording() as events:
        make.sandbox()
        make.sandbox()
    assert len({event.body["trace_id"] for event in events}) == 2
    assert len({event.body["request_id"] for event in events}) == 2


def test_the_stream_keeps_what_was_told(api, make):
    box = make.sandbox()

    async def last():
        stream = api.client.jetstream()
        info = await stream.stream_info("CNM_EVENTS")
        assert info.config.subjects == ["cnm.v1.event.>"]
        message = await stream.get_last_msg("CNM_EVENTS", f"cnm.v1.event.sandbox.created.{box['id']}")
        again = await stream.publish(
            message.subject, message.data, headers={"Nats-Msg-Id": message.headers["Nats-Msg-Id"]}
        )
        return message, again

    message, again = api.run(last())
    assert message.headers["Nats-Msg-Id"]
    assert again.duplicate


def test_the_predefined_networks_were_told_of(api):
    async def first(about):
        try:
            return await api.client.jetstream().get_last_msg("CNM_EVENTS", f"cnm.v1.event.network.created.{about}")
        except nats.js.errors.NotFoundError:
            pytest.fail("the event is lost")

    for network in api.ask("network.list")["networks"]:
        if network["name"] in ("none", "host", "bridge"):
            assert api.run(first(network["id"])).data
