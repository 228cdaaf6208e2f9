"""Who may listen where, and be called what?"""

import pytest

from cnm.errors import Invalid
from cnm_gateway.config import name_of, place


def test_loopback_needs_no_names():
    found = place({})
    assert (found.host, found.port) == ("127.0.0.1", 8780)
    assert found.names == {"127.0.0.1", "localhost", "::1"}
    for address in ("127.0.0.2:1", "[::1]:8780", "localhost:8780"):
        place({"CNM_GATEWAY_ADDRESS": address})


@pytest.mark.parametrize("address", ["0.0.0.0:8780", "[::]:8780", "192.0.2.1:80", "cnm.example:8780"])
def test_another_address_is_refused_unless_names_are_given(address):
    with pytest.raises(Invalid, match=r"CNM_GATEWAY_HOSTS must name"):
        place({"CNM_GATEWAY_ADDRESS": address})
    with pytest.raises(Invalid, match=r"CNM_GATEWAY_HOSTS must name"):
        place({"CNM_GATEWAY_ADDRESS": address, "CNM_GATEWAY_HOSTS": " , "})
    found = place({"CNM_GATEWAY_ADDRESS": address, "CNM_GATEWAY_HOSTS": "CNM.example, 192.0.2.7:8780,[2001:db8::1]"})
    assert found.names >= {"cnm.example", "192.0.2.7", "2001:db8::1"}


@pytest.mark.parametrize("address", ["8780", ":8780", "127.0.0.1", "127.0.0.1:99999", "::1:8780"])
def test_what_is_no_address_is_refused_by_its_name(address):
    with pytest.raises(Invalid, match=r"CNM_GATEWAY_ADDRESS"):
        place({"CNM_GATEWAY_ADDRESS": address})


@pytest.mark.parametrize(
    ("header", "name"),
    [
        ("localhost:8780", "localhost"),
        ("LOCALHOST", "localhost"),
        ("[::1]:8780", "::1"),
        ("::1", "::1"),
        ("evil.example:8780", "evil.example"),
        ("", ""),
        ("127.0.0.1.evil.example", "127.0.0.1.evil.example"),
    ],
)
def test_name_of_a_host_header(header, name):
    assert name_of(header) == name
