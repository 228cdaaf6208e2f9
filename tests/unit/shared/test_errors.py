"""Errors cross the wire and come back as themselves."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnm.errors import (
    BY_CODE,
    CnmError,
    ErrorBody,
    ErrorReply,
    Fault,
    Internal,
    Invalid,
    Undelivered,
    from_reply,
    to_reply,
)
from cnm.messages.message import encode
from cnm.store import LeaseLost

TAKEN = ("message", "self")
names = st.text(max_size=8).filter(lambda name: name not in TAKEN)
details = st.dictionaries(names, st.integers() | st.text())


@given(kind=st.sampled_from(sorted(BY_CODE)), message=st.text(), details=details)
def test_error_comes_back_as_it_was(kind, message, details):
    sent = ErrorReply(error=ErrorBody(code=kind, message=message, details=details))
    received = from_reply(msgspec.json.decode(encode(sent), type=ErrorReply))
    assert type(received) is BY_CODE[kind]
    assert (received.message, received.details) == (message, details)
    assert to_reply(received) == sent


@pytest.mark.parametrize("name", TAKEN)
def test_details_may_have_any_name(name):
    received = from_reply(ErrorReply(error=ErrorBody(code="conflict", message="x", details={name: "y"})))
    assert received.details == {name: "y"}


def test_unknown_code_is_internal():
    assert type(from_reply(ErrorReply(error=ErrorBody(code="teapot", message="x")))) is Internal


@pytest.mark.parametrize("error", [Undelivered("x"), LeaseLost("x")])
def test_what_the_wire_does_not_know_goes_as_what_it_is_a_kind_of(error):
    assert to_reply(error).error.code == "unavailable"
    assert type(from_reply(to_reply(error))) is BY_CODE["unavailable"]


def test_faults_stand_in_the_message_and_in_the_details():
    error = Invalid.of([Fault(field="a.b", value=3, reason="is no text"), Fault(field="", reason="is empty")])
    assert str(error) == error.message == "a.b: is no text (got 3); body: is empty"
    assert [each["field"] for each in error.details["fields"]] == ["a.b", ""]


def test_every_kind_has_a_code_and_a_status_of_its_own():
    assert len({kind.status for kind in BY_CODE.values()}) == len(BY_CODE)
    assert all(code == kind.code and issubclass(kind, CnmError) for code, kind in BY_CODE.items())
