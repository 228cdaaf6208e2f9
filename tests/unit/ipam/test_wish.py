"""Every fault of a client's request for a pool, and none that is not."""

from ipaddress import ip_network

import pytest

from cnm.errors import Invalid
from cnm.messages.ipam import RequestPool
from cnm.messages.message import decode
from cnm_ipam.predefined import Predefined
from cnm_ipam.wish import plan, wish_of


@pytest.mark.parametrize(
    "body",
    [
        b'{"space": "mine", "pool": "bad"}',
        b'{"space": "mine", "pool": 5}',
        b'{"space": "mine", "pool": "10.0.0.0"}',
        b'{"space": "mine", "pool": "bad", "sub_pool": "10.0.0.0/25"}',
        b'{"space": "mine", "pool": "bad", "ipv6": true}',
    ],
)
def test_a_pool_that_cannot_be_read_is_its_only_fault(body):
    with pytest.raises(Invalid) as refused:
        decode(RequestPool, body, check=wish_of)
    assert [fault["field"] for fault in refused.value.details["fields"]] == ["pool"]


@pytest.mark.parametrize(("hint", "largest"), [("0.0.0.0/13", "/14"), ("::/40", "/48")])
def test_a_size_that_no_predefined_pool_has_is_told_as_it_was_asked_for(hint, largest):
    wish = wish_of(RequestPool(space="LocalDefault", pool=ip_network(hint)))
    with pytest.raises(Invalid, match=f"the largest is {largest}") as refused:
        plan(wish, predefined=Predefined(), installation="x", field="pool")
    (fault,) = refused.value.details["fields"]
    assert (fault["field"], fault["value"]) == ("pool", hint)
