"""The committed documentation is what the classes say, and its schemas are not broken."""

import copy
import json
import re

import pytest

from cnm.docs import ROOT, breaches, broken, generate, main, schemas_of, stale
from cnm.messages import COMMANDS
from cnm.messages.network import CreateNetwork
from cnm.reference import between_workers, raised_codes

EVERY = [command for commands in COMMANDS.values() for command in commands]


def test_documentation_is_fresh():
    assert stale(ROOT / "docs") == [], "run make docs"


def test_no_committed_schema_is_broken():
    assert breaches(ROOT / "docs") == []


def test_every_subject_is_documented():
    files = generate()
    assert len(files) == 3 + len(EVERY)
    for command in EVERY:
        assert f"### {command.subject.replace('{node}', '<node>')}\n" in files["subjects.md"]


def test_every_verb_about_an_object_says_what_it_is_refused_with():
    codes = raised_codes(ROOT / "services")
    for command in EVERY:
        if not between_workers(command) and "system" not in command.subject:
            assert codes[command.__name__], command.subject
    assert codes["ConnectSandbox"]["exhausted"] == "the pool has no free address, or the range no free host port."


def references(value):
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for each in value.values():
            yield from references(each)
    elif isinstance(value, list):
        for each in value:
            yield from references(each)


def test_asyncapi_document_refers_to_what_is_in_it():
    document = json.loads(generate()["asyncapi.json"])
    assert document["asyncapi"] == "3.0.0"
    found = set(references(document))
    assert found
    for reference in found:
        place = document
        for step in reference.removeprefix("#/").split("/"):
            place = place[step]
    addresses = {channel["address"] for channel in document["channels"].values()}
    assert {command.subject for command in EVERY} <= addresses


def test_links_of_the_page_lead_somewhere():
    page = generate()["subjects.md"]
    headings = {
        re.sub(r"[^a-z0-9_-]", "", line.lstrip("# ").lower().replace(" ", "-"))
        for line in page.splitlines()
        if line.startswith("#")
    }
    links = re.findall(r"\]\(#([^)]+)\)", page)
    assert len(links) > 100
    for link in links:
        assert link in headings


@pytest.fixture
def old():
    return copy.deepcopy(schemas_of(CreateNetwork))


def fields(schemas, side="request"):
    name = schemas[side]["$ref"].rpartition("/")[2]
    return schemas[side]["$defs"][name]


def test_schema_equal_to_the_old_breaks_nothing(old):
    assert broken(old, schemas_of(CreateNetwork)) == []


def test_new_field_with_a_default_breaks_nothing(old):
    del fields(old)["properties"]["internal"]
    del fields(old, "reply")["properties"]["internal"]
    fields(old, "reply")["required"].remove("internal")
    assert broken(old, schemas_of(CreateNetwork)) == []


def test_removed_retyped_and_required_fields_are_told(old):
    fields(old)["properties"]["colour"] = {"type": "string"}
    fields(old)["properties"]["internal"] = {"type": "string"}
    fields(old)["required"].remove("name")
    fields(old, "reply")["required"].append("ipam2")
    assert broken(old, schemas_of(CreateNetwork)) == [
        "request.internal: ['string'] became ['boolean']",
        "request.colour: was removed",
        "request.name: became required",
        "reply.ipam2: became optional",
    ]


def test_breach_deep_inside_is_told(old):
    old["request"]["$defs"]["PoolRequest"]["properties"]["gateway"] = {"type": "integer"}
    old["reply"]["$defs"]["NetworkEndpoint"]["properties"]["colour"] = {"type": "string"}
    assert broken(old, schemas_of(CreateNetwork)) == [
        "request.ipam.pools[].gateway: ['integer'] became ['null', 'string:ip-address']",
        "reply.endpoints[].colour: was removed",
    ]


def test_breach_is_written_only_when_meant(tmp_path, capsys, old):
    assert main(["--docs", str(tmp_path)]) == 0
    assert main(["--docs", str(tmp_path), "--check"]) == 0
    fields(old)["properties"]["colour"] = {"type": "string"}
    path = tmp_path / "schemas/cnm.v1.network.create.json"
    path.write_text(json.dumps(old))
    assert main(["--docs", str(tmp_path), "--check"]) == 1
    assert "run make docs" in capsys.readouterr().err
    assert main(["--docs", str(tmp_path)]) == 1
    assert "request.colour: was removed" in capsys.readouterr().err
    assert main(["--docs", str(tmp_path), "--breaking"]) == 0
    assert main(["--docs", str(tmp_path), "--check"]) == 0
