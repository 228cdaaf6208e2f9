"""The AsyncAPI document is one, by AsyncAPI's own schema (`deploy/setup-examples` fetches it)."""

import copy
import json
import os

import jsonschema
import pytest

from cnm.reference import ROOT

SCHEMA = ROOT / "tests/asyncapi/node_modules/@asyncapi/specs/schemas/3.0.0.json"


@pytest.fixture(scope="module")
def validator():
    if not SCHEMA.exists():
        message = "the schema of AsyncAPI is not there: deploy/setup-examples fetches it"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    schema = json.loads(SCHEMA.read_text())
    return jsonschema.validators.validator_for(schema)(schema)


@pytest.fixture
def document():
    return json.loads((ROOT / "docs/asyncapi.json").read_text())


def test_document_is_valid(validator, document):
    assert [error.message for error in validator.iter_errors(document)] == []


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("channels", "network.create", "address"), 7),
        (("operations", "network.create", "action"), "answer"),
        (("components", "messages", "ErrorReply", "headers", "type"), "headers"),
    ],
)
def test_what_is_wrong_with_it_would_be_told(validator, document, place, value):
    broken = copy.deepcopy(document)
    *way, last = place
    inner = broken
    for step in way:
        inner = inner[step]
    assert last in inner
    inner[last] = value
    assert not validator.is_valid(broken)


def test_examples_fit_what_they_are_examples_of(document):
    shown = 0
    for message in document["components"]["messages"].values():
        for example in message.get("examples", ()):
            jsonschema.validate(example["payload"], message["payload"] | {"components": document["components"]})
            shown += 1
    assert shown > 60
