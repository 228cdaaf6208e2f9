"""Objects are found by id, name or prefix, and listed in order, filtered, and piece by piece (API 1 and 12)."""

import pytest


@pytest.fixture(scope="module")
def three(api, make_for_module):
    """Three networks and three sandboxes, one endpoint each, in order of creation."""
    stem = api.name("many")
    networks = [
        make_for_module.network(
            f"{stem}-{index}", labels={"index": str(index), f"only{index}": ""}, internal=index == 1
        )
        for index in range(3)
    ]
    sandboxes = [
        make_for_module.sandbox(f"{stem}-{index}", labels={"index": str(index), f"only{index}": ""})
        for index in range(3)
    ]
    endpoints = [
        make_for_module.endpoint(networks[0], f"{stem}-{index}", labels={"index": str(index)}) for index in (0, 1)
    ]
    endpoints.append(make_for_module.connect(sandboxes[0], networks[1]))
    return {"stem": stem, "network": networks, "sandbox": sandboxes, "endpoint": endpoints}


PLURALS = {"network": "networks", "sandbox": "sandboxes", "endpoint": "endpoints"}


def ids(api, noun, **body):
    return [each["id"] for each in api.ask(f"{noun}.list", body)[PLURALS[noun]]]


@pytest.mark.parametrize("noun", ["network", "sandbox"])
def test_a_key_is_an_id_a_name_or_a_prefix(api, three, noun):
    wanted = three[noun][1]
    for key in (wanted["id"], wanted["name"], wanted["id"][:12], wanted["id"][:63]):
        assert api.ask(f"{noun}.get", {noun: key})["id"] == wanted["id"]
    for key in (wanted["id"] + "0", wanted["id"].upper(), wanted["name"][:-1], wanted["name"].upper()):
        api.refused(f"{noun}.get", {noun: key}, "not_found", key)


def test_an_endpoints_key_needs_its_network_unless_it_is_a_full_id(api, three):
    wanted = three["endpoint"][1]
    for network in (three["network"][0]["id"], three["network"][0]["name"], three["network"][0]["id"][:16]):
        for key in (wanted["id"], wanted["name"], wanted["id"][:12]):
            assert api.ask("endpoint.get", {"network": network, "endpoint": key})["id"] == wanted["id"]
    assert api.ask("endpoint.get", {"endpoint": wanted["id"]})["id"] == wanted["id"]
    for key in (wanted["name"], wanted["id"][:12]):
        api.refused("endpoint.get", {"endpoint": key}, "not_found", key)
    api.refused("endpoint.get", {"network": three["network"][2]["id"], "endpoint": wanted["name"]}, "not_found")


@pytest.mark.parametrize("noun", ["network", "sandbox", "endpoint"])
def test_names_go_before_prefixes_and_ambiguous_prefixes_are_invalid(api, make, noun):
    at = {"network": make.network()["id"]} if noun == "endpoint" else {}
    create = {"network": make.network, "sandbox": make.sandbox}.get(noun)
    made = create() if create else make.endpoint({"id": at["network"]})
    prefix = made["id"][:10]
    named = create(prefix) if create else make.endpoint({"id": at["network"]}, prefix)
    assert api.ask(f"{noun}.get", {noun: prefix, **at})["id"] == named["id"]
    whole = create(made["id"]) if create else make.endpoint({"id": at["network"]}, made["id"])
    assert api.ask(f"{noun}.get", {noun: made["id"], **at})["id"] == made["id"], "an id goes before a name"
    assert api.ask(f"{noun}.get", {noun: whole["id"], **at})["id"] == whole["id"]
    # 17 objects share one of 16 first digits.
    for _ in range(17):
        create() if create else make.endpoint({"id": at["network"]})
    listed = api.ask(f"{noun}.list", at)[PLURALS[noun]]
    first = [each["id"][0] for each in listed]
    key = next(digit for digit in first if first.count(digit) > 1)
    error = api.refused(f"{noun}.get", {noun: key, **at}, "invalid", key)
    (fault,) = error["details"]["fields"]
    assert (fault["field"], fault["value"]) == (noun, key)


@pytest.mark.parametrize("noun", ["network", "sandbox", "endpoint"])
def test_lists_go_by_creation_and_come_in_pieces(api, three, noun):
    everything = api.ask(f"{noun}.list")[PLURALS[noun]]
    if "created" in everything[0]:
        order = [(each["created"], each["id"]) for each in everything]
        assert order == sorted(order)
    every = [each["id"] for each in everything]
    ours = [each["id"] for each in three[noun]]
    assert [each for each in every if each in ours] == ours
    assert ids(api, noun, limit=2) == every[:2]
    assert ids(api, noun, limit=1000) == every
    assert ids(api, noun, after=every[1]) == every[2:]
    assert ids(api, noun, after=every[0], limit=1) == every[1:2]
    assert ids(api, noun, after=every[-1]) == []
    pieces, after = [], None
    while piece := ids(api, noun, limit=2, **({"after": after} if after else {})):
        pieces += piece
        after = piece[-1]
    assert pieces == every
    filters = {"name": [three["stem"]]}
    assert ids(api, noun, filters=filters, limit=1) == ours[:1] if noun != "endpoint" else True


@pytest.mark.parametrize("noun", ["network", "sandbox", "endpoint"])
def test_filters_of_every_noun(api, three, noun):
    one, two, last = (each["id"] for each in three[noun])

    def found(**filters):
        return [each for each in ids(api, noun, filters=filters) if each in (one, two, last)]

    assert found() == [one, two, last]
    assert found(name=[f"{three['stem']}-1"]) == [two]
    assert found(name=[three["stem"][1:]])[:2] == [one, two], "a name's filter is a substring"
    assert found(name=["nonesuch"]) == []
    assert found(id=[one[:20]]) == [one]
    assert found(id=[one[:20], last]) == [one, last], "any value of a filter will do"
    assert found(id=[one[1:]]) == [], "an id's filter is a prefix"
    assert found(label=["index=1"]) == [two]
    assert found(label=["index"])[:2] == [one, two]
    assert found(label=["index=7"]) == []
    assert found(label=["ind"]) == []
    assert found(label=["index=0", "index=1"]) == [one, two]
    assert found(id=[one, two], label=["index=1"]) == [two], "all filters must pass"
    assert found(id=[]) in ([], [one, two, last])


def test_filters_of_networks(api, three):
    one, two, last = (each["id"] for each in three["network"])
    predefined = {each["name"]: each["id"] for each in api.ask("network.list")["networks"]}

    def found(**filters):
        return ids(api, "network", filters=filters)

    assert set(found(driver=["host", "null"])) == {predefined["host"], predefined["none"]}
    assert one in found(driver=["bridge"])
    assert found(driver=["brid"]) == []
    assert set(found(scope=["local"])) == set(ids(api, "network"))
    assert found(scope=["swarm"]) == []
    for yes in (True, "true"):
        dangling = found(dangling=[yes])
        assert last in dangling
        assert one not in dangling
        assert two not in dangling
        assert not set(dangling) & {predefined[name] for name in ("bridge", "host", "none")}
    assert {one, two} <= set(found(dangling=[False]))
    assert last not in found(dangling=["false"])


def test_filters_of_sandboxes_and_nodes(api, three):
    ours = [each["id"] for each in three["sandbox"]]
    assert [each for each in ids(api, "sandbox", filters={"node": [api.node]}) if each in ours] == ours
    assert ids(api, "sandbox", filters={"node": ["nonesuch"]}) == []
    assert [each["name"] for each in api.ask("node.list", {"filters": {"name": [api.node]}})["nodes"]] == [api.node]
    assert api.ask("node.list", {"filters": {"state": ["down"]}})["nodes"] == []


def test_nodes_are_shown_page_by_page(api):
    def names(**request):
        return [node["name"] for node in api.ask("node.list", request)["nodes"]]

    assert names(limit=1) == [api.node]
    assert names(after=api.node) == []
    api.refused("node.list", {"after": "nonesuch"}, "not_found", "nonesuch")
    api.refused("node.list", {"limit": 0}, "invalid", "limit")


def test_endpoints_are_listed_by_network(api, three):
    one, two, last = (each["id"] for each in three["endpoint"])
    assert ids(api, "endpoint", network=three["network"][0]["name"]) == [one, two]
    assert ids(api, "endpoint", network=three["network"][1]["id"]) == [last]
    assert ids(api, "endpoint", network=three["network"][2]["id"]) == []


def test_prune_deletes_only_what_nothing_uses(api, make):
    label = api.name("prune")
    used, idle, other = (
        make.network(labels={label: ""}),
        make.network(labels={label: ""}),
        make.network(labels={"else": ""}),
    )
    make.endpoint(used)
    before = ids(api, "network")
    assert api.ask("network.prune", {"filters": {"label": [label]}}) == {"deleted": [idle["id"]]}
    assert ids(api, "network") == [each for each in before if each != idle["id"]]
    assert other["id"] in before
    assert api.ask("network.prune", {"filters": {"label": [label]}}) == {"deleted": []}


def test_a_network_in_use_lists_its_endpoints_and_goes_with_force(api, make):
    network = make.network()
    idle = make.endpoint(network)
    box = make.sandbox(on=[network])
    error = api.refused("network.delete", {"network": network["id"]}, "forbidden", network["name"], idle["name"])
    assert box["name"] in error["message"]
    assert api.ask("network.delete", {"network": network["id"], "force": True}) == {}
    assert api.ask("sandbox.get", {"sandbox": box["id"]})["endpoints"] == []
    assert [link["ifname"] for link in api.ip("link show", box["key"])] == ["lo"]
    api.refused("endpoint.get", {"endpoint": idle["id"]}, "not_found", idle["id"])
