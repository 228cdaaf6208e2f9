"""Which owners do not hold what they should, and what settles that."""

from datetime import UTC, datetime
from ipaddress import ip_address, ip_interface, ip_network

from cnm.messages.ipam import AllocatedPool, HeldAddress, Lease, Pool
from cnm_controller.accounts import accounts, differences, settlement, unsettled
from cnm_controller.documents import EndpointBody, NetworkBody

NOW = datetime(2026, 1, 2, tzinfo=UTC)
P, Q = "L/10.0.0.0/24", "L/10.9.0.0/24"
NETWORK = NetworkBody(
    id="net",
    name="web",
    driver="bridge",
    scope="local",
    created=NOW,
    pools=[
        AllocatedPool(
            pool_id=P,
            subnet=ip_network("10.0.0.0/24"),
            gateway=ip_address("10.0.0.1"),
            aux_addresses={"r": ip_address("10.0.0.9")},
        )
    ],
)
ENDPOINT = EndpointBody(
    id="ep",
    name="db",
    network_id="net",
    created=NOW,
    mac_address="02:00:00:00:00:01",
    ipv4=ip_interface("10.0.0.2/24"),
)


def pool(pool_id, owner):
    prefix = ip_network(pool_id.split("/", 1)[1])
    return Pool(
        pool_id=pool_id, space="L", pool=prefix, sub_pool=None, options={}, owner=owner, in_use=0, available=0
    )


def lease(address, owner, holder="somebody", pool_id=P):
    return Lease(address=ip_interface(f"{address}/24"), pool_id=pool_id, owner=owner, holder=holder)


POOLS = [pool(P, "net")]
LEASES = [lease("10.0.0.1", "net"), lease("10.0.0.9", "net"), lease("10.0.0.2", "ep")]


def found(pools=POOLS, leases=LEASES, *, networks=(NETWORK,), endpoints=(ENDPOINT,), busy=()):
    return accounts(
        {each.id: each for each in networks}, {each.id: each for each in endpoints}, pools, leases, busy=busy
    )


def test_books_that_agree_have_no_accounts():
    assert found() == []
    assert found([*POOLS, pool(Q, None)], [*LEASES, lease("10.9.0.7", None, pool_id=Q)]) == []


def test_what_is_lost_is_lacked():
    network, endpoint = found([], [])
    assert (network.owner, network.lacks) == ("net", (P, "10.0.0.1", "10.0.0.9"))
    assert (endpoint.owner, endpoint.lacks, endpoint.label) == ("ep", ("10.0.0.2",), "endpoint 'db' on network 'web'")


def test_what_nobody_should_have_is_surplus():
    pools = [*POOLS, pool(Q, "gone"), pool("L/10.8.0.0/24", "net")]
    leases = [*LEASES, lease("10.0.0.7", "ghost", "endpoint 'ghost'"), lease("10.0.0.8", "ep"),
              lease("10.9.0.1", "gone", "network 'old'", Q)]  # fmt: skip
    network, gone, endpoint, ghost = found(pools, leases)
    assert (network.surplus_pools, network.lacks) == (("L/10.8.0.0/24",), ())
    assert (gone.kind, gone.surplus_pools, gone.label) == ("network", (Q,), "network 'old'")
    assert endpoint.surplus_addresses == (HeldAddress(pool_id=P, address=ip_address("10.0.0.8")),)
    assert (ghost.label, ghost.surplus_addresses[0].address) == ("endpoint 'ghost'", ip_address("10.0.0.7"))


def test_who_is_busy_is_left_alone():
    assert found([], [], busy=("net", "ep")) == []


def test_networks_of_other_drivers_are_none_of_ipams_business():
    other = NetworkBody(**{**{f: getattr(NETWORK, f) for f in NETWORK.__struct_fields__}, "ipam_driver": "mock"})
    assert found([], [], networks=(other,)) == []


def test_settlement_goes_by_the_documents_as_they_are_now():
    """An address that has become right meanwhile is no more given back."""
    (account,) = found(leases=[*LEASES, lease("10.0.0.8", "ep")])
    moved = EndpointBody(
        **{**{f: getattr(ENDPOINT, f) for f in ENDPOINT.__struct_fields__}, "ipv4": ip_interface("10.0.0.8/24")}
    )
    command = settlement(account, NETWORK, moved)
    assert [str(each.address) for each in command.addresses] == ["10.0.0.8"]
    assert command.surplus_addresses == []
    command = settlement(account, None, None)
    assert (command.addresses, [str(each.address) for each in command.surplus_addresses]) == ([], ["10.0.0.8"])


def test_differences_say_what_was_found_and_why_it_stayed():
    (account,) = found(leases=LEASES[:2])
    (one,) = differences(account, ["10.0.0.2"], [], repaired=True)
    assert (one.what, one.value, one.about, one.id, one.repaired) == (
        "owner without its lease",
        "10.0.0.2",
        "endpoint 'db' on network 'web'",
        "ep",
        True,
    )
    (one,) = unsettled(account, '10.0.0.2 is held by owner "thief"')
    assert (one.repaired, one.reason) == (False, '10.0.0.2 is held by owner "thief"')
    what = [each.what for each in differences(account, [P], [Q, "10.0.0.7"], repaired=False)]
    assert what == ["owner without its pool", "pool without an owner", "lease without an owner"]
