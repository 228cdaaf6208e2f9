"""The worked example of the README is what the service replies."""

import re
from pathlib import Path

from cnm.messages.ipam import IPAM_COMMANDS
from cnm.messages.message import decode, encode
from cnm_ipam.handlers import routes

README = Path(__file__).parents[3] / "services/ipam/README.md"


async def test_worked_example_is_what_the_service_replies(ipam):
    handlers = {route.command: route.handler for route in routes(ipam.pools, ipam.predefined)}
    commands = {command.subject: command for command in IPAM_COMMANDS}
    examples = re.findall(r"^\$ nats request (\S+) '(.*)'\n(.*)$", README.read_text(), flags=re.MULTILINE)
    assert len(examples) == 3
    for subject, body, reply in examples:
        command = commands[subject]
        assert encode(await handlers[command](decode(command, body.encode()))).decode() == reply
