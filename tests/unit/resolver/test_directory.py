from dataclasses import replace
from ipaddress import ip_network

from dnslib import RCODE

from cnm_resolver.answer import Forward
from cnm_resolver.directory import Directory
from cnm_resolver.zone import Settings


def test_endpoint_that_leaves_is_gone_from_every_table(directory, view, ask):
    zone = view.zones[0]
    for endpoint_id in list(zone.records):
        directory.drop_record(endpoint_id)
        directory.drop_record(endpoint_id)
    assert ask(view, "pool").header.rcode == RCODE.NXDOMAIN
    assert ask(view, "2.0.28.172.in-addr.arpa", "PTR").header.rcode == RCODE.NXDOMAIN
    assert (zone.records, zone._entries, zone._holders, zone._reverse) == ({}, {}, {}, {})


def test_renamed_endpoint_is_found_by_its_new_name_only(directory, view, ask, data, record):
    directory.put_record(record("e-api", "n-web", "api2", v4="172.28.0.2"))
    assert data(ask(view, "api2")) == ["172.28.0.2"]
    assert ask(view, "api").header.rcode == RCODE.NXDOMAIN
    assert ask(view, "front").header.rcode == RCODE.NXDOMAIN
    assert data(ask(view, "2.0.28.172.in-addr.arpa", "PTR")) == ["api2.web."]


def test_endpoint_with_another_address_answers_at_once(directory, view, ask, data, record):
    assert data(ask(view, "api")) == ["172.28.0.2"]
    directory.put_record(record("e-api", "n-web", "api", v4="172.28.0.99"))
    assert data(ask(view, "api")) == ["172.28.0.99"]


def test_two_endpoints_with_one_address_answer_it_once(directory, view, ask, data, record):
    directory.put_record(record("e-new", "n-web", "api", v4="172.28.0.2"))
    assert data(ask(view, "api")) == ["172.28.0.2"]
    directory.drop_record("e-api")
    assert data(ask(view, "api")) == ["172.28.0.2"]


def test_endpoint_may_come_before_its_network(ask, data, record):
    directory = Directory()
    directory.put_record(record("e", "n", "early", v4="10.0.0.1"))
    view = directory.put_sandbox(Settings(sandbox_id="s", networks=("n",)))
    assert ask(view, "early").header.rcode == RCODE.NXDOMAIN
    assert directory.put_network("n", "net") == ("s",)
    assert data(ask(directory.view("s"), "early")) == ["10.0.0.1"]


def test_unchanged_network_changes_no_view(directory, view):
    assert directory.put_network("n-web", "web", prefixes=(ip_network("172.28.0.0/16"),)) == ()


def test_renamed_network_keeps_its_endpoints(directory, view, ask, data):
    assert directory.put_network("n-web", "net", prefixes=(ip_network("172.28.0.0/16"),)) == ("s1",)
    assert data(ask(directory.view("s1"), "api.net")) == ["172.28.0.2"]


def test_deleted_network_no_longer_keeps_names_from_leaving(directory, view, ask):
    assert directory.drop_network("n-hidden") == ()
    assert directory.drop_network("n-hidden") == ()
    assert directory.record("e-secret") is None
    assert isinstance(ask(view, "secret.hidden"), Forward)
    assert isinstance(ask(view, "2.0.9.10.in-addr.arpa", "PTR"), Forward)


def test_sandbox_that_leaves_a_network_no_longer_sees_it(directory, settings, view, ask):
    view = directory.put_sandbox(replace(settings, networks=("n-six",)))
    assert ask(view, "api").header.rcode == RCODE.NXDOMAIN
    assert directory.put_network("n-web", "other") == ()
    directory.drop_sandbox("s1")
    directory.drop_sandbox("s1")
    assert directory.put_network("n-six", "other") == ()
    assert directory.settings("s1") is None


def test_endpoint_update_makes_no_other_view(directory, view, ask, data, record):
    directory.put_record(record("e-late", "n-web", "late", v4="172.28.0.50"))
    assert data(ask(view, "late")) == ["172.28.0.50"]


def test_name_that_dns_cannot_carry_is_left_out(directory, view, ask, data, record):
    directory.put_record(record("e-long", "n-web", "x" * 64, "a..b", "short", v4="172.28.0.51"))
    assert data(ask(view, "short")) == ["172.28.0.51"]
    # the reverse name would be the first one, which cannot be written
    assert data(ask(view, "51.0.28.172.in-addr.arpa", "PTR")) == []
