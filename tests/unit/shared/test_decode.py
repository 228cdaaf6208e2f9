"""Whatever a stranger sends is a message or ``Invalid`` with every fault."""

from typing import Annotated, Any, ClassVar

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Meta

from cnm.errors import Invalid
from cnm.messages import COMMANDS
from cnm.messages.message import Command, Empty, decode, encode
from cnm.types import Address, Id, Prefix

EVERY = [command for commands in COMMANDS.values() for command in commands]


class Leaf(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A leaf."""

    size: int
    tag: str = ""


class Loose(msgspec.Struct, frozen=True, kw_only=True):
    """It takes unknown fields."""

    size: int = 0


class Tree(Command[Empty], frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One of everything."""

    subject: ClassVar[str] = "cnm.v1.tree.plant"

    leaf: Leaf | None = None
    leaves: list[Leaf] = []
    rows: list[list[int]] = []
    by_name: dict[str, Leaf] = {}
    lists: dict[str, list[int]] | None = None
    several: list[Leaf] | None = None
    pair: tuple[int, ...] = ()
    mixed: str | int | bool = ""
    address: Address | None = None
    subnet: Prefix | None = None
    id: Id | None = None
    loose: Loose | None = None
    many: Annotated[list[Annotated[int, Meta(ge=1)]], Meta(max_length=3)] = []


def faults(body, kind=Tree):
    with pytest.raises(Invalid) as refused:
        decode(kind, body if isinstance(body, bytes) else msgspec.json.encode(body))
    return {each["field"]: each["reason"] for each in refused.value.details["fields"]}


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({"leaf": {"size": "x", "colour": 1}}, ["leaf.size", "leaf.colour"]),
        ({"leaf": {}}, ["leaf.size"]),
        ({"leaf": [1]}, ["leaf"]),
        ({"leaves": [{"size": 1}, {"size": None}, 3, {}]}, ["leaves[1].size", "leaves[2]", "leaves[3].size"]),
        ({"rows": [[1], ["x", 2, None], 3]}, ["rows[1][0]", "rows[1][2]", "rows[2]"]),
        ({"by_name": {"a": {"size": 1}, "b.c": {"size": "x"}}}, ["by_name.b.c.size"]),
        ({"lists": {"a": [1, "x"]}}, ["lists.a[1]"]),
        ({"lists": 3}, ["lists"]),
        ({"several": [{"size": "x"}]}, ["several[0].size"]),
        ({"pair": [1, "x"]}, ["pair[1]"]),
        ({"mixed": [1]}, ["mixed"]),
        ({"mixed": None}, ["mixed"]),
        ({"address": "10.0.0.0/8", "subnet": "10.0.0.1/8"}, ["address", "subnet"]),
        ({"address": 3, "subnet": True}, ["address", "subnet"]),
        ({"id": "ab"}, ["id"]),
        ({"loose": {"size": "x", "more": 1}}, ["loose.size"]),
        ({"many": [0, 1]}, ["many[0]"]),
        ({"nothing": 1, "rows": 2, "leaf": 3}, ["nothing", "rows", "leaf"]),
        ([], [""]),
        (None, [""]),
    ],
)
def test_every_fault_is_found_where_it_is(body, fields):
    assert sorted(faults(body)) == sorted(fields)


@pytest.mark.parametrize("body", [{"many": [1, 2, 3, 4]}])
def test_fault_that_no_part_has_is_still_told(body):
    assert faults(body)


def test_reason_holds_the_offending_value_and_the_right_one():
    found = faults({"subnet": "10.0.0.1/8", "address": "x", "rows": "text"})
    assert found["subnet"] == "10.0.0.1/8 has host bits set, it should be 10.0.0.0/8"
    assert found["address"] == "'x' is not an IP address"
    assert "text" in found["rows"]


def test_empty_body_is_an_empty_object():
    assert decode(Tree, b"") == decode(Tree, b"{}") == Tree()


def test_what_was_encoded_is_decoded_again():
    tree = Tree(leaf=Leaf(size=1), leaves=[Leaf(size=2, tag="é")], rows=[[1], []], mixed=True)
    assert decode(Tree, encode(tree)) == tree


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


def fields_of(kind):
    names = [field.encode_name for field in msgspec.structs.fields(kind)]
    return st.dictionaries(
        st.sampled_from(names) | st.text(max_size=4) if names else st.text(), json_values, max_size=6
    )


def only_invalid(kind: Any, body: bytes) -> None:
    try:
        decode(kind, body)
    except Invalid as error:
        assert error.details["fields"]  # noqa: PT017  # it may be a message as well
        encode(error.details)


@given(body=st.data())
def test_arbitrary_json_is_a_message_or_invalid(body):
    kind = body.draw(st.sampled_from([Tree, *EVERY]))
    only_invalid(kind, msgspec.json.encode(body.draw(fields_of(kind) | json_values)))


@given(body=st.data())
def test_json_that_breaks_off_or_is_garbled_is_invalid(body):
    kind = body.draw(st.sampled_from([Tree, *EVERY]))
    whole = msgspec.json.encode(body.draw(fields_of(kind)))
    cut = body.draw(st.integers(0, len(whole)))
    only_invalid(kind, whole[:cut] + body.draw(st.binary(max_size=3)) + whole[cut + 1 :])


@given(st.binary(max_size=60))
def test_arbitrary_bytes_are_invalid_or_a_message(body):
    only_invalid(Tree, body)


@pytest.mark.parametrize(
    "body",
    [
        b'{"rows": "x", ',
        b'{"rows": 1, "leaf": "\xff"}',
        b'{"rows": 1e999}',
        b'{"x":' * 99999,
        b'{"rows":' + b"[" * 99999,
    ],
    ids=range(5),
)
def test_fault_before_the_place_where_the_json_breaks_is_invalid(body):
    only_invalid(Tree, body)
    assert faults(body)
