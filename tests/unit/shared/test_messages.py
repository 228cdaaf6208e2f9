"""Every command is declared as the house wants it."""

import re

import msgspec
import pytest

from cnm import messages
from cnm.messages import COMMANDS, EVENTS
from cnm.messages.message import Command, event_subject, schema

EVERY = [command for commands in COMMANDS.values() for command in commands]


def subclasses(kind):
    for each in kind.__subclasses__():
        if each.__module__.startswith(messages.__name__):
            yield each
        yield from subclasses(each)


def test_every_command_is_owned_by_one_service():
    assert len(set(EVERY)) == len(EVERY)
    declared = {each for each in subclasses(Command) if "[" not in each.__name__}
    assert declared == set(EVERY)


def test_subjects_are_unique():
    subjects = [command.subject for command in EVERY]
    assert len(set(subjects)) == len(subjects)


@pytest.mark.parametrize("command", EVERY, ids=lambda command: command.__name__)
def test_command_is_declared_in_full(command):
    assert re.fullmatch(r"cnm\.v1\.(on\.\{node\}\.)?[a-z_]+(\.[a-z_]+)+", command.subject)
    assert not command.subject.startswith("cnm.v1.event.")
    reply = command.reply_type()
    assert issubclass(reply, msgspec.Struct)
    config = command.__struct_config__
    assert (config.frozen, config.forbid_unknown_fields) == (True, True)
    assert reply.__struct_config__.frozen
    assert not reply.__struct_config__.forbid_unknown_fields, "a reply may gain fields"
    for kind in (command, reply):
        assert kind.__doc__
        assert kind.__doc__.strip().splitlines()[0].endswith((".", ":", ";", ","))
        assert schema(kind)["$defs"]
    assert command.subject_on("a.b") == command.subject.replace("{node}", "a_b")


def test_event_subjects_are_tokens():
    assert event_subject("network", "created", "a.b*") == "cnm.v1.event.network.created.a_b_"
    assert all(re.fullmatch("[a-z]+", word) for noun, found in EVENTS.items() for word in (noun, *found))


def test_command_without_a_reply_is_refused():
    class Mute(Command, frozen=True, kw_only=True):
        """It says nothing."""

    with pytest.raises(TypeError, match="Mute"):
        Mute.reply_type()
