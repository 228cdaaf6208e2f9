from collections.abc import Mapping
from typing import Any

from cnm.errors import Forbidden, NotFound
from cnm_cli.removal import plan_links, plan_tables, remove_everything


class Installation:
    """Answers as the controller does, and remembers what it was asked to delete."""

    def __init__(self, **refusals: Exception) -> None:
        self.deleted: list[tuple[str, Mapping[str, Any]]] = []
        self.refusals = refusals

    async def ask(self, subject: str, body: Mapping[str, Any]) -> dict[str, Any]:
        _, _, noun, verb = subject.split(".")
        if verb == "list":
            return {
                "sandbox": {"sandboxes": [{"id": "s1"}, {"id": "s2"}]},
                "endpoint": {"endpoints": [{"id": "e1", "network": "n1"}]},
                "network": {
                    "networks": [
                        {"id": "n0", "name": "bridge"},
                        {"id": "n3", "name": "template", "config_only": True},
                        {"id": "n1", "name": "web", "config_only": False},
                    ]
                },
            }[noun]
        assert verb == "delete"
        if error := self.refusals.get(body[noun]):
            raise error
        self.deleted.append((noun, body))
        return {}


async def test_everything_but_predefined_networks_is_deleted_in_an_order_that_works() -> None:
    installation = Installation()
    assert await remove_everything(installation.ask) == []
    assert installation.deleted == [
        ("sandbox", {"sandbox": "s1"}),
        ("sandbox", {"sandbox": "s2"}),
        ("endpoint", {"network": "n1", "endpoint": "e1", "force": True}),
        ("network", {"network": "n1", "force": True}),
        ("network", {"network": "n3", "force": True}),
    ]


async def test_what_fails_is_returned_and_the_rest_is_deleted() -> None:
    installation = Installation(s1=Forbidden("busy"), s2=NotFound("gone"))
    assert [error.message for error in await remove_everything(installation.ask)] == ["busy"]
    assert [noun for noun, _ in installation.deleted] == ["endpoint", "network", "network"]


def test_only_marked_interfaces_are_deleted() -> None:
    links = [
        {"ifname": "lo"},
        {"ifname": "veth1", "ifalias": "cnm:0123"},
        {"ifname": "veth2", "ifalias": "not cnm:0123"},
    ]
    assert plan_links(links) == [("ip", "link", "delete", "dev", "veth1")]


def test_only_our_tables_are_deleted_and_none_with_rules_of_the_user() -> None:
    ruleset = [
        {"metainfo": {"version": "1.0.6"}},
        {"table": {"family": "inet", "name": "cnm_filter"}},
        {"table": {"family": "inet", "name": "cnm_ports"}},
        {"table": {"family": "ip", "name": "filter"}},
        {"chain": {"family": "inet", "table": "cnm_filter", "name": "cnm-user"}},
        {"rule": {"family": "inet", "table": "cnm_filter", "chain": "cnm-user", "expr": []}},
        {"rule": {"family": "inet", "table": "cnm_ports", "chain": "forward", "expr": []}},
    ]
    assert plan_tables(ruleset) == [("nft", "delete", "table", "inet", "cnm_ports")]
