"""Which ports a sandbox wants, and which stay bound, when some come or go."""

from datetime import UTC, datetime
from ipaddress import ip_address, ip_network

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnm.errors import Conflict, Forbidden, Invalid, NotFound
from cnm.messages.sandbox import PortBinding, PortRequest, PortSelection, PublishOnSandbox, UnpublishFromSandbox
from cnm_controller.documents import SandboxBody
from cnm_controller.port_change import check_publish, check_unpublish, with_more, without

V4, V6, LOCAL = ip_address("0.0.0.0"), ip_address("::"), ip_address("127.0.0.1")
INSIDE = ip_address("172.28.0.2")


def sandbox(requests=(), bound=(), **more):
    return SandboxBody(
        id="a" * 64, name="web", node="n1", created=datetime(2026, 1, 2, tzinfo=UTC), key="k", hosts_path="h",
        resolv_conf_path="r", requests=list(requests), bound=list(bound), **more,
    )  # fmt: skip


def request(container=80, host=None, **more):
    return PortRequest(container_port=container, host_port=host, **more)


def binding(container=80, host=8080, at=V4, **more):
    return PortBinding(
        container_port=container, protocol="tcp", host_ip=at, host_port=host, container_ip=INSIDE, **more
    )


def both(container=80, host=8080, **more):
    return [binding(container, host, at, **more) for at in (V4, V6)]


def select(container=80, **more):
    return PortSelection(container_port=container, **more)


def test_what_is_closed_is_wanted_no_more_and_the_rest_stays():
    before = sandbox([request(80, 8080), request(81)], [*both(), *both(81, 40000)])
    after = without(before, [select()])
    assert (after.requests, after.bound) == ([request(81)], both(81, 40000))
    assert without(after, [select(81)]) == sandbox()


def test_one_address_of_a_port_may_go_alone():
    before = sandbox([request(80, 8080)], both())
    after = without(before, [select(host_ip=V4)])
    assert (after.requests, after.bound) == ([request(80, 8080, host_ip=V6)], [binding(at=V6)])
    assert without(after, [select(host_ip=V6)]) == sandbox()
    assert without(before, [select(host_ip=V4), select(host_ip=V6)]) == sandbox()


def test_of_two_automatic_ports_the_one_that_is_named_goes():
    before = sandbox([request(), request()], [*both(host=40000), *both(host=40001)])
    after = without(before, [select(host_port=40001)])
    assert (after.requests, after.bound) == ([request()], both(host=40000))
    assert without(before, [select()]) == sandbox()


def test_a_fixed_port_and_an_automatic_one_for_the_same_container_port_are_told_apart():
    wanted = [request(), request(80, 8080)]
    before = sandbox(wanted, [*both(host=40000), *both()])
    assert without(before, [select(host_port=8080)]).requests == [request()]
    assert without(before, [select(host_port=40000)]).requests == [request(80, 8080)]


def test_the_network_s_default_address_is_no_other_request():
    before = sandbox([request(80, 8080)], [binding(at=LOCAL)])
    assert without(before, [select(host_ip=LOCAL)]) == sandbox()


def test_who_may_connect_tells_requests_apart():
    some = [ip_network("10.0.0.0/8")]
    wanted = [request(host_ip=V4, allow=some), request(host_ip=V4)]
    before = sandbox(wanted, [binding(host=40000, allow=some), binding(host=40001)])
    assert without(before, [select(host_port=40000)]).requests == wanted[1:]
    assert without(before, [select(host_port=40001)]).requests == wanted[:1]


def test_ports_that_wait_for_a_way_out_are_closed_before_they_open():
    before = sandbox([request(80, 8080), request(81)])
    assert without(before, [select(host_port=8080)]).requests == [request(81)]
    assert without(before, [select(host_ip=V4)]).requests == [request(80, 8080, host_ip=V6), request(81)]
    assert without(before, [select(), select(81)]) == sandbox()


@pytest.mark.parametrize(
    ("selection", "words"),
    [
        (select(82), "'web' has not published port 82/tcp"),
        (select(protocol="udp"), "has not published port 80/udp"),
        (select(host_port=8081), "at *:8081"),
        (select(host_ip=LOCAL), "at 127.0.0.1:*"),
        (select(host_ip=ip_address("::1"), host_port=1), "at [::1]:1"),
        (select(7001), "one of the range 7000-7002"),
    ],
)
def test_what_is_not_published_is_named(selection, words):
    ranged = request(7000, 7000, container_port_end=7002, host_port_end=7002)
    ends = {"container_port_end": 7002, "host_port_end": 7002}
    before = sandbox([request(80, 8080), ranged], [*both(), *both(7000, 7000, **ends)])
    with pytest.raises(NotFound) as error:
        without(before, [select(), selection])
    assert words in error.value.message
    assert without(before, [select(7000)]).requests == [request(80, 8080)]


def test_a_sandbox_in_the_node_s_namespace_publishes_nothing():
    with pytest.raises(Forbidden, match="node's own namespace"):
        with_more(sandbox(use_default_sandbox=True), [request()])


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (request(80, 8080), request(81, 8080)),
        (request(80, 8080, host_ip=LOCAL), request(81, 8080, host_ip=V4)),
        (request(80, 8080, host_ip=V4), request(81, 8080)),
        (request(80, 8080, container_port_end=89, host_port_end=8089), request(9, 8085, host_ip=V6)),
    ],
)
def test_a_port_that_the_sandbox_waits_for_itself_is_a_conflict(old, new):
    with pytest.raises(Conflict, match="sandbox 'web' itself, for its port 80"):
        with_more(sandbox([old]), [new])


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (request(80, 8080), request(81, 8081)),
        (request(80, 8080), request(81, 8080, protocol="udp")),
        (request(80, 8080, host_ip=LOCAL), request(81, 8080, host_ip=V6)),
        (request(80, 8080, host_ip=LOCAL), request(81, 8080, host_ip=ip_address("10.0.0.1"))),
        (request(80, 8080, host_port_end=8089), request(81, 8080)),
        (request(80), request(80)),
    ],
)
def test_what_can_be_had_both_is_none(old, new):
    assert with_more(sandbox([old]), [new]).requests == [old, new]


def test_what_is_contradictory_is_told_with_its_field():
    ports = [request(80, 8080), request(81, 8080), request(82, allow=[])]
    with pytest.raises(Invalid) as error:
        check_publish(PublishOnSandbox(sandbox="web", ports=ports))
    assert {fault["field"] for fault in error.value.details["fields"]} == {"ports[1].host_port", "ports[2].allow"}
    for check, command in ((check_publish, PublishOnSandbox), (check_unpublish, UnpublishFromSandbox)):
        with pytest.raises(Invalid, match="at least one"):
            check(command(sandbox="web", ports=[]))


few = st.lists(st.tuples(st.integers(80, 82), st.booleans()), min_size=1, max_size=6)


@given(few, st.data())
def test_closing_one_after_another_leaves_nothing_and_never_what_was_closed(wanted, data):
    requests = [request(port, 8000 + index if fixed else None) for index, (port, fixed) in enumerate(wanted)]
    hosts = [8000 + index if fixed else 40000 + index for index, (_, fixed) in enumerate(wanted)]
    bound = [each for (port, _), host in zip(wanted, hosts, strict=True) for each in both(port, host)]
    now = sandbox(requests, bound)
    while now.bound:
        gone = data.draw(st.sampled_from(now.bound))
        selection = select(gone.container_port, host_ip=gone.host_ip, host_port=gone.host_port)
        after = without(now, [selection])
        assert after.bound == [each for each in now.bound if each != gone]
        assert len(after.requests) == len({each.host_port for each in after.bound})
        now = after
    assert now == msgspec.structs.replace(now, requests=[], bound=[])
