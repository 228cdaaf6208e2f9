"""Any sequence of requests and releases, compared with a model that is a dict."""

import asyncio
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from cnm.errors import Conflict, Exhausted, Invalid
from cnm_ipam.redis_script import connect

OWNERS = st.sampled_from("abcdef")


def machine_over(redis_url, ipam_class):
    class Allocator(RuleBasedStateMachine):
        """One pool with a range; ``rest`` decides whether released addresses rest for ever or not at all."""

        def __init__(self):
            super().__init__()
            self.runner = asyncio.Runner()
            self.redis = connect(redis_url)
            self.held: dict[str, str] = {}
            self.resting: list[str] = []
            self.last: dict[str, str] = {}

        def run(self, work):
            return self.runner.run(work)

        def teardown(self):
            if hasattr(self, "ipam"):
                self.run(self.ipam.release_pool(self.pool_id))
                assert self.run(self.ipam.state()) == {}
            self.run(self.redis.aclose())
            self.runner.close()

        @initialize(
            shape=st.sampled_from(
                [
                    ("10.0.0.0/29", None),
                    ("10.0.0.0/28", "10.0.0.8/29"),
                    ("fd00::/125", None),
                    ("10.0.0.0/15", "10.0.0.0/30"),
                ]
            ),
            rest=st.sampled_from([0, 1000]),
        )
        def start(self, shape, rest):
            self.run(self.redis.flushall())
            self.rest = rest
            self.ipam = ipam_class.over(self.redis, rest_s=rest)
            self.pool_id = self.run(self.ipam.pool(*shape))
            whole, self.range = ip_network(shape[0]), ip_network(shape[1] or shape[0])
            first, last = whole.network_address, whole.broadcast_address
            never = {first} | ({last} if whole.version == 4 else set())
            self.usable = [str(address) for address in self.range if address not in never]
            self.length = whole.prefixlen
            numbers = (int(self.range.network_address) + number for number in range(17))
            self.possible = {
                str(address) for address in map(ip_address, numbers) if address in whole and address not in never
            }

        def expect(self, owner):
            last = self.last.get(owner)
            if last in self.usable and last not in self.held:
                return last
            free = [address for address in self.usable if address not in self.held and address not in self.resting]
            return next(iter(free or [address for address in self.resting if address in self.usable]), None)

        def took(self, owner, address):
            self.held[address] = owner
            self.resting = [other for other in self.resting if other != address]
            self.last = {other: last for other, last in self.last.items() if last != address}

        @rule(owner=OWNERS)
        def request(self, owner):
            if owner in self.held.values():
                assert self.run(self.ipam.address(self.pool_id, owner=owner)).split("/")[0] in self.held
                return
            expected = self.expect(owner)
            try:
                found = self.run(self.ipam.address(self.pool_id, owner=owner))
            except Exhausted:
                assert expected is None
                return
            assert found == f"{expected}/{self.length}"
            self.took(owner, expected)

        @rule(owner=OWNERS, number=st.integers(0, 16))
        def request_one(self, owner, number):
            address = str(ip_address(int(self.range.network_address) + number))
            holder = self.held.get(address, owner)
            if holder == owner and address in self.possible:
                self.run(self.ipam.address(self.pool_id, address, owner=owner))
                if address not in self.held:
                    self.took(owner, address)
                return
            with pytest.raises(Conflict if holder != owner else Invalid) as caught:
                self.run(self.ipam.address(self.pool_id, address, owner=owner))
            assert holder == owner or f'"{holder}"' in caught.value.message

        @precondition(lambda self: self.held)
        @rule(data=st.data())
        def release(self, data):
            address = data.draw(st.sampled_from(sorted(self.held)))
            self.run(self.ipam.release(self.pool_id, address))
            self.last[self.held.pop(address)] = address
            if self.rest:
                self.resting.append(address)
                self.run(asyncio.sleep(0.0015))  # two releases in one millisecond rest equally long

        @invariant()
        def counts_are_right(self):
            if hasattr(self, "ipam"):
                held = len([address for address in self.held if ip_address(address) in self.range])
                assert self.run(self.ipam.counts(self.pool_id)) == (held, len(self.usable) - held)

    return Allocator


def test_allocator_does_what_the_model_does(redis_url, ipam_class):
    run_state_machine_as_test(
        machine_over(redis_url, ipam_class),
        settings=settings(max_examples=80, stateful_step_count=40, deadline=None, derandomize=True, database=None),
    )
