"""What may be created as a sandbox, and where its files are."""

from datetime import UTC, datetime

import pytest

from cnm.errors import Invalid
from cnm.messages.message import decode
from cnm.messages.sandbox import CreateSandbox
from cnm_controller.ports import NodeState
from cnm_controller.sandbox import check_create, new_sandbox

NODE = NodeState(name="n1", run_dir="/run/cnm")


def fields_of(body: bytes) -> set[str]:
    with pytest.raises(Invalid) as refused:
        check_create(decode(CreateSandbox, body))
    return {fault["field"] for fault in refused.value.details["fields"]}


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        (b'{"name": "a", "extra_hosts": [{"name": "x", "ip": "nowhere"}]}', {"extra_hosts[0].ip"}),
        (b'{"name": "a", "netns": "relative"}', {"netns"}),
        (b'{"name": "a", "netns": "/x", "use_default_sandbox": true}', {"netns"}),
        (b'{"name": "a", "exposed_ports": ["80", "0/tcp", "90-80"]}', {"exposed_ports[1]", "exposed_ports[2]"}),
        (b'{"name": "a", "sysctls": {"kernel.panic": "1"}}', {"sysctls.kernel.panic"}),
        (
            b'{"name": "a", "ports": [{"container_port": 80, "container_port_end": 70}]}',
            {"ports[0].container_port_end"},
        ),
        (
            b'{"name": "a", "ports": [{"container_port": 80, "host_port_end": 70}]}',
            {"ports[0].host_port"},
        ),
        (
            (
                b'{"name": "a", "ports": [{"container_port": 80, "container_port_end": 89, "host_port": 1,'
                b' "host_port_end": 5}]}'
            ),
            {"ports[0].host_port_end"},
        ),
        (
            (
                b'{"name": "a", "ports": [{"container_port": 80, "host_port": 8080}, {"container_port": 81,'
                b' "host_port": 8080}]}'
            ),
            {"ports[1].host_port"},
        ),
    ],
)
def test_contradictions_are_named_by_field(body: bytes, fields: set[str]):
    assert fields_of(body) == fields


def test_the_same_port_of_two_protocols_or_addresses_is_no_contradiction():
    body = (
        b'{"name": "a", "ports": [{"container_port": 53, "host_port": 53}, {"container_port": 53, "host_port": 53,'
        b' "protocol": "udp"}, {"container_port": 53, "host_port": 53, "host_ip": "10.0.0.1"}]}'
    )

    check_create(decode(CreateSandbox, body))


def test_files_stand_under_the_run_directory_of_the_node():
    command = decode(CreateSandbox, b'{"name": "a"}')
    made = new_sandbox(command, NODE, id="b" * 64, now=datetime(2026, 1, 2, tzinfo=UTC))

    assert made.key == "/run/cnm/netns/bbbbbbbbbbbb"
    assert made.hosts_path == f"/run/cnm/sandboxes/{'b' * 64}/hosts"
    assert made.hostname == "a"


def test_a_host_sandbox_has_the_key_host_and_publishes_nothing():
    command = decode(CreateSandbox, b'{"name": "a", "use_default_sandbox": true, "ports": [{"container_port": 80}]}')
    made = new_sandbox(command, NODE, id="b" * 64, now=datetime(2026, 1, 2, tzinfo=UTC))

    assert made.key == "host"
    assert made.requests == []
