"""The worked example in the service's README is true."""

import re
from pathlib import Path

import msgspec

from cnm.messages.ports import PublishedPorts, PublishPorts
from cnm.types import dec_hook
from cnm_port_mapper.binding import Publication, read_requests

README = Path(__file__).parents[3] / "services" / "port-mapper" / "README.md"


def test_example_is_true():
    asked, answered = re.findall(r"```json\n(.*?)```", README.read_text(), re.DOTALL)
    command = msgspec.json.decode(asked, type=PublishPorts, dec_hook=dec_hook)
    reply = msgspec.json.decode(answered, type=PublishedPorts, dec_hook=dec_hook)
    wants = read_requests(command.requests)
    made = Publication(command.label, wants, tuple(want.first for want in wants), command.ipv4_address)
    assert made.bindings() == reply.ports
