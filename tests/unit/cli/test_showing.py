"""Do tables and lines show what the bodies hold?"""

import json

import pytest

from cnm.client import Heard
from cnm_cli.events import as_json, as_line
from cnm_cli.port import describe
from cnm_cli.request import flatten, print_objects, short

ID = "0123456789abcdef" * 4
BODY = {
    "id": ID,
    "internal": False,
    "scope": None,
    "ipam": {"pools": [{"subnet": "10.0.0.0/24", "aux_addresses": {"a": "10.0.0.9"}}], "options": {}},
    "aliases": ["a", "b"],
    "endpoints": [],
}


def test_object_is_a_row_a_value():
    assert flatten(BODY) == [
        ("id", ID),
        ("internal", "false"),
        ("scope", None),
        ("ipam.pools[0].subnet", "10.0.0.0/24"),
        ("ipam.pools[0].aux_addresses.a", "10.0.0.9"),
        ("ipam.options", None),
        ("aliases", "a, b"),
        ("endpoints", ""),
    ]


@pytest.mark.parametrize(("as_list", "shown"), [(False, BODY), (True, [BODY])])
def test_json_of_one_is_the_very_body_and_of_several_a_list(as_list, shown, capsys):
    print_objects([BODY], as_json=True, as_list=as_list)
    assert json.loads(capsys.readouterr().out) == shown


def test_json_of_one_that_was_refused_is_nothing(capsys):
    print_objects([], as_json=True, as_list=False)
    assert capsys.readouterr().out == ""


def test_ids_are_cut_to_twelve():
    assert (short(ID), short(None)) == ("0123456789ab", None)


@pytest.mark.parametrize(
    ("more", "text"),
    [
        ({}, "0.0.0.0:8080->80/tcp"),
        ({"host_ip": "::"}, "[::]:8080->80/tcp"),
        ({"host_port": None}, "80/tcp"),
        ({"host_port_end": 8082, "container_port_end": 82}, "0.0.0.0:8080-8082->80-82/tcp"),
    ],
)
def test_binding_is_written_as_docker_does(more, text):
    binding = {"container_port": 80, "protocol": "tcp", "host_ip": "0.0.0.0", "host_port": 8080}
    assert describe(binding | more) == text


EVENT = Heard(
    subject=f"cnm.v1.event.network.created.{ID}",
    body={"id": "e1", "time": "2026-11-23T10:00:00Z", "object": {"id": ID, "name": "web", "driver": "bridge"}},
    sequence=7,
)


def test_event_is_a_line():
    assert as_line(EVENT) == "2026-11-23T10:00:00Z network created 0123456789ab name=web driver=bridge"


def test_event_as_json_is_its_body_and_its_subject():
    assert json.loads(as_json(EVENT)) == {**EVENT.body, "subject": EVENT.subject}
