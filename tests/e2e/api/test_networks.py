"""What a user of Docker networks takes for granted of them (API 2; features C01 to C20)."""

import re
from datetime import UTC, datetime, timedelta

import pytest

PREDEFINED = {"none": "null", "host": "host", "bridge": "bridge"}


def listed(api, **filters):
    return {each["name"]: each for each in api.ask("network.list", {"filters": filters})["networks"]}


def test_the_drivers_there_are_are_listed(api):
    drivers = api.ask("system.info")["drivers"]
    assert {"bridge", "host", "null"} <= set(drivers["network"])
    assert {"default", "null"} <= set(drivers["ipam"])
    # What is listed is what there is: a driver that is not is refused with the list, and has no networks.
    error = api.refused("network.create", {"name": "n", "driver": "nonesuch"}, "unsupported", "nonesuch")
    assert all(name in error["message"] for name in drivers["network"])


def test_every_network_has_an_id_of_its_own_and_tells_when_it_was_made(api, tidy, make):
    before = datetime.now(UTC)
    made = [make.network(labels={"tier": "front", "empty": ""}) for _ in range(3)]
    assert len({each["id"] for each in made}) == 3
    for each in made:
        assert re.fullmatch("[0-9a-f]{64}", each["id"])
        created = datetime.fromisoformat(each["created"])
        assert before - timedelta(seconds=1) <= created <= datetime.now(UTC)
        assert each["labels"] == {"tier": "front", "empty": ""}
        assert api.ask("network.get", {"network": each["id"]}) == each


@pytest.mark.parametrize("name", ["", " ", "  ", "\t", " web", "web "])
def test_blank_names_are_refused(api, name):
    with api.unchanged():
        error = api.refused("network.create", {"name": name}, "invalid")
    assert [fault["field"] for fault in error["details"]["fields"]] == ["name"]


def test_a_name_is_given_once_and_is_free_again_when_its_network_is_gone(api, tidy, make):
    first = make.network()
    with api.unchanged():
        api.refused("network.create", {"name": first["name"]}, "conflict", first["name"], first["id"])
    assert api.ask("network.delete", {"network": first["name"]}) == {}
    api.refused("network.delete", {"network": first["name"]}, "not_found", first["name"])
    api.refused("network.delete", {"network": first["id"]}, "not_found", first["id"])
    again = make.network(first["name"])
    assert again["id"] != first["id"]


def test_a_network_with_endpoints_stays_until_they_are_gone(api, tidy, make):
    network = make.network()
    endpoint = make.endpoint(network)
    with api.unchanged():
        api.refused("network.delete", {"network": network["id"]}, "forbidden", endpoint["name"])
    api.ask("endpoint.delete", {"endpoint": endpoint["id"]})
    assert api.ask("network.delete", {"network": network["id"]}) == {}


@pytest.mark.parametrize("name", sorted(PREDEFINED))
def test_predefined_networks_are_always_there_and_nobody_changes_them(api, make, name):
    shown = api.ask("network.get", {"network": name})
    assert (shown["driver"], shown["scope"]) == (PREDEFINED[name], "local")
    with api.unchanged():
        api.refused("network.create", {"name": name, "driver": PREDEFINED[name]}, "forbidden", name)
        api.refused("network.create", {"name": name, "config_only": True}, "forbidden", name)
        api.refused("network.create", {"name": api.name(), "config_from": name}, "not_found", name)
        for force in (False, True):
            for key in (name, shown["id"], shown["id"][:20]):
                api.refused("network.delete", {"network": key, "force": force}, "forbidden", name)
        for changes in ({}, {"labels": {"a": "1"}}, {"add_pools": [{"subnet": "10.9.0.0/24"}]}, {"revision": 99}):
            api.refused("network.update", {"network": name, **changes}, "forbidden", name)
        api.ask("network.prune", {"filters": {"name": [name]}})
    # And it works as it did: a refused delete takes nothing away.
    box = make.sandbox(use_default_sandbox=name == "host")
    assert make.connect(box, shown)["state"] == "joined"
    assert listed(api, name=[name])[name]["endpoints"]


def test_attributes_are_shown_as_they_were_asked_for(api, tidy, make):
    plain = make.network()
    assert {key: plain[key] for key in ("internal", "attachable", "ingress", "config_only", "config_from")} == {
        "internal": False, "attachable": False, "ingress": False, "config_only": False, "config_from": None,
    }  # fmt: skip
    assert plain["scope"] == "local"
    special = make.network(internal=True, attachable=True, scope="local")
    assert (special["internal"], special["attachable"], special["scope"]) == (True, True, "local")


@pytest.mark.parametrize(
    ("fields", "word"),
    [({"scope": "swarm"}, "swarm"), ({"scope": "global"}, "global"), ({"ingress": True}, "ingress")],
)
def test_scopes_need_a_driver_that_has_them(api, fields, word):
    with api.unchanged():
        api.refused("network.create", {"name": "n", **fields}, "unsupported", word)


def test_pruning_and_using_a_network_at_once_leave_no_half(api, make):
    label = api.name("race")
    for _ in range(6):
        network, box = make.network(labels={label: ""}), make.sandbox()
        (pruned, _), (joined, _) = api.together(
            ("network.prune", {"filters": {"label": [label]}}),
            ("sandbox.connect", {"sandbox": box["id"], "network": network["id"]}),
        )
        if "error" in joined:
            assert joined["error"]["code"] == "not_found"
            assert pruned == {"deleted": [network["id"]]}
        else:
            assert pruned == {"deleted": []}
            assert api.ask("network.get", {"network": network["id"]})["endpoints"][0]["id"] == joined["id"]


def test_prunes_at_once_delete_each_network_once(api, make):
    label = api.name("prunes")
    made = {make.network(labels={label: ""})["id"] for _ in range(6)}
    calls = [("network.prune", {"filters": {"label": [label]}})] * 3
    deleted = [id for reply, _ in api.together(*calls) for id in reply["deleted"]]
    assert sorted(deleted) == sorted(made)


def test_prune_takes_the_filters_of_list(api, tidy, make):
    label = api.name("filter")
    one, two, used = (make.network(labels={label: str(n)}) for n in range(3))
    make.endpoint(used)

    def prune(**filters):
        return api.ask("network.prune", {"filters": {"label": [label], **filters}})["deleted"]

    assert prune(dangling=[False]) == []
    assert prune(driver=["host"]) == []
    assert prune(id=[used["id"][:20]]) == []
    assert prune(name=[one["name"]], scope=["local"]) == [one["id"]]
    api.refused("network.prune", {"filters": {"until": ["24h"], "label!": ["x"]}}, "invalid", "until", "label!")
    assert prune(dangling=["true"]) == [two["id"]]
