"""What a request means, and how the result is shown."""

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import msgspec
import pytest

from cnm.errors import Invalid
from cnm.messages.sandbox import PortBinding, PortRequest
from cnm_port_mapper.binding import Place, Publication, Seat, Target, Want, read_bound, read_requests, seats_of

IPV4, IPV6 = IPv4Address("172.28.0.2"), IPv6Address("fd28::2")
EVERY = (ip_address("0.0.0.0"), ip_address("::"))


def request(container, host=None, *, protocol="tcp", ip=None, allow=None):
    """Write ports as ``80`` or ``80-82``."""
    first, _, last = str(container).partition("-")
    host_first, _, host_last = str(host or "").partition("-")
    return PortRequest(
        container_port=int(first),
        container_port_end=int(last) if last else None,
        protocol=protocol,
        host_ip=ip_address(ip) if ip else None,
        host_port=int(host_first) if host_first else None,
        host_port_end=int(host_last) if host_last else None,
        allow=allow,
    )


@pytest.mark.parametrize(
    ("asked", "want", "fixed"),
    [
        (request(80, 8080), Want("tcp", EVERY, 80, 1, 8080, 8080), True),
        (request(80, 8080, ip="10.0.0.1"), Want("tcp", (ip_address("10.0.0.1"),), 80, 1, 8080, 8080), True),
        (request(80, 8080, ip="fd00::1"), Want("tcp", (ip_address("fd00::1"),), 80, 1, 8080, 8080), True),
        (request(80, 8080, ip="::ffff:10.0.0.1"), Want("tcp", (ip_address("10.0.0.1"),), 80, 1, 8080, 8080), True),
        (request(53, 0, protocol="udp"), Want("udp", EVERY, 53), False),
        (request(80), Want("tcp", EVERY, 80), False),
        (request("80-82", "8080-8082"), Want("tcp", EVERY, 80, 3, 8080, 8082), True),
        (request("80-82", "8080-8099"), Want("tcp", EVERY, 80, 3, 8080, 8099), False),
        (request(80, "8080-8099"), Want("tcp", EVERY, 80, 1, 8080, 8099), False),
        (request("80-82"), Want("tcp", EVERY, 80, 3), False),
    ],
)
def test_request_becomes_a_want(asked, want, fixed):
    (found,) = read_requests([asked])
    assert (found, found.fixed) == (want, fixed)


def test_host_without_ipv6_is_asked_for_ipv4_alone():
    assert read_requests([request(80)], ipv6=False)[0].addresses == EVERY[:1]


def test_every_fault_is_told():
    with pytest.raises(Invalid) as refused:
        read_requests(
            [
                request("82-80", 8080),
                request("80-82", 8080),
                request("80-82", "8080-8081"),
                request(80, "8081-8080"),
                PortRequest(container_port=80, host_port_end=8080),
                request(80, 80, ip="224.0.0.1"),
                request(80, 80),
            ]
        )
    assert [(fault["field"], fault["reason"]) for fault in refused.value.details["fields"]] == [
        ("ports[0].container_port_end", "the range 82-80 ends before it begins"),
        ("ports[1].host_port_end", "3 container ports do not fit into 1 host port"),
        ("ports[2].host_port_end", "3 container ports do not fit into 2 host ports"),
        ("ports[3].host_port_end", "the range 8081-8080 ends before it begins"),
        ("ports[4].host_port_end", "a range that ends at 8080 needs a host_port to begin at"),
        ("ports[5].host_ip", "224.0.0.1 is a group's address"),
    ]


def test_sources_go_with_the_places_of_their_family_and_none_lies_within_another():
    allow = ["10.0.0.0/8", "10.1.0.0/16", "fd00::/8"]
    (want,) = read_requests([PortRequest(container_port=80, host_port=80, allow=list(map(ip_network, allow)))])
    published = Publication("a", (want,), (80,), ip_address("172.28.0.2"))
    found = {str(place): target.allow for place, target in published.targets.items()}
    assert found == {"0.0.0.0:80/tcp": (ip_network("10.0.0.0/8"),), "[::]:80/tcp": (ip_network("fd00::/8"),)}
    assert [list(map(str, binding.allow)) for binding in published.bindings()] == [allow, allow]
    assert read_bound(published.bindings())[0].allow == want.allow


def test_nobody_of_a_family_that_is_not_named_comes_in():
    target = Target(ip_address("172.28.0.2"), 80, ())
    assert not target.admits(ip_address("fd00::1"))
    assert Target(ip_address("172.28.0.2"), 80).admits(ip_address("fd00::1"))


def publication(*wants_and_ports, ipv4=IPV4, ipv6=None):
    return Publication("c1", tuple(w for w, _ in wants_and_ports), tuple(p for _, p in wants_and_ports), ipv4, ipv6)


@pytest.mark.parametrize(
    ("ipv4", "ipv6", "leads"),
    [(IPV4, None, (IPV4, IPV4)), (IPV4, IPV6, (IPV4, IPV6)), (None, IPV6, (IPV6, IPV6))],
)
def test_place_leads_to_its_own_family_or_else_to_the_other(ipv4, ipv6, leads):
    found = publication((Want("tcp", EVERY, 80), 8080), ipv4=ipv4, ipv6=ipv6)
    assert found.targets == {
        Place("tcp", address, 8080): Target(lead, 80) for address, lead in zip(EVERY, leads, strict=True)
    }


def test_range_is_shown_as_one_entry_an_address_and_reads_back():
    found = publication((Want("tcp", EVERY, 80, 3, 8080, 8099), 8090), (Want("udp", EVERY[:1], 53), 53))
    first, second, third = found.bindings()
    assert first == PortBinding(
        container_port=80,
        container_port_end=82,
        protocol="tcp",
        host_ip=EVERY[0],
        host_port=8090,
        host_port_end=8092,
        container_ip=IPV4,
    )
    assert (second.host_ip, third.host_ip, third.host_port_end) == (EVERY[1], EVERY[0], msgspec.UNSET)
    wants = read_bound([first, second, third])
    assert all(want.fixed for want in wants)
    again = publication(*((want, want.first) for want in wants))
    assert again.bindings() == [first, second, third]
    assert again.targets == found.targets


def test_routed_bindings_have_no_place_on_the_host():
    routed = PortBinding(container_port=80, protocol="tcp", host_ip=EVERY[0], host_port=None, container_ip=IPV4)
    assert read_bound([routed]) == ()


@pytest.mark.parametrize(
    ("one", "other", "meet"),
    [
        ("0.0.0.0", "10.0.0.1", True),
        ("10.0.0.1", "0.0.0.0", True),
        ("10.0.0.1", "10.0.0.1", True),
        ("10.0.0.1", "10.0.0.2", False),
        ("0.0.0.0", "::", False),
        ("::", "fd00::1", True),
    ],
)
def test_places_overlap_by_address(one, other, meet):
    first = Place("tcp", ip_address(one), 80)
    assert first.overlaps(Place("tcp", ip_address(other), 80)) is meet
    assert not first.overlaps(Place("udp", ip_address(other), 80))
    assert not first.overlaps(Place("tcp", ip_address(other), 81))
    assert (
        Place("tcp", ip_address(other), 71, 10).overlaps(first)
        is first.overlaps(Place("tcp", ip_address(other), 71, 10))
        is meet
    )
    assert not first.overlaps(Place("tcp", ip_address(other), 70, 10))


def test_places_are_written_as_people_write_them():
    assert str(Place("tcp", ip_address("0.0.0.0"), 8080)) == "0.0.0.0:8080/tcp"
    assert str(Place("udp", ip_address("::1"), 53)) == "[::1]:53/udp"
    assert str(Place("udp", ip_address("::1"), 5000, 100)) == "[::1]:5000-5099/udp"


def test_port_on_every_address_of_both_families_takes_one_socket():
    four, six = Place("tcp", EVERY[0], 80), Place("tcp", EVERY[1], 80)
    one, udp = Place("tcp", ip_address("10.0.0.1"), 81), Place("udp", EVERY[1], 80)
    assert seats_of([six, one, four, udp]) == (Seat((one,)), Seat((four, six)), Seat((udp,)))
    assert seats_of([four]) == (Seat((four,)),)
    row4, row6 = Place("tcp", EVERY[0], 80, 9), Place("tcp", EVERY[1], 80, 9)
    assert seats_of([row4, six, row6]) == (Seat((row4, row6)), Seat((six,)))
