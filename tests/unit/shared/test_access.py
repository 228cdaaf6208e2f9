"""What a URL and the variables beside it say of credentials, and what is shown of them."""

import pytest
import trustme
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from cnm.errors import Invalid
from cnm.nats_access import access, without_secrets
from cnm.redis_access import open_redis


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("nats://u:p@a:1,nats://b:2", "nats://a:1,nats://b:2"),
        ("nats://token@a:1", "nats://a:1"),
        ("redis://:p@ss/w@rd@a:1/0", "redis://a:1/0"),
        ("rediss://a/0?ssl_ca_certs=/x&password=p", "rediss://a/0?ssl_ca_certs=/x&password=..."),
        ("redis+sentinel://u:p@a:1,b:2/x?sentinel_password=s", "redis+sentinel://a:1,b:2/x?sentinel_password=..."),
        ("unix:///run/redis.sock", "unix:///run/redis.sock"),
    ],
)
def test_secrets_are_never_shown(text, shown):
    assert without_secrets(text) == shown


def test_nothing_is_asked_for_without_variables():
    assert access({}, ["nats://127.0.0.1:4222"]) == {}


def test_files_are_named_to_nats(tmp_path):
    for name in ("creds", "nk"):
        (tmp_path / name).write_text("x")
    found = access({"CNM_NATS_CREDS": f"{tmp_path}/creds", "CNM_NATS_NKEY": f"{tmp_path}/nk", "CNM_NATS_CA": ""}, [])
    assert found == {"user_credentials": f"{tmp_path}/creds", "nkeys_seed": f"{tmp_path}/nk"}


def test_tls_takes_the_system_s_authorities_or_those_that_are_named(tmp_path):
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    assert len(access({}, ["tls://a", "tls://b"])["tls"].get_ca_certs()) != 1
    (only,) = access({"CNM_NATS_CA": f"{tmp_path}/ca.pem"}, ["nats://a"])["tls"].get_ca_certs()
    assert "trustme" in str(only["subject"])


@pytest.mark.parametrize("variable", ["CNM_NATS_CREDS", "CNM_NATS_NKEY", "CNM_NATS_CA", "CNM_NATS_CERT"])
def test_file_that_cannot_be_read_is_named(variable):
    with pytest.raises(Invalid, match="/nowhere cannot be read") as raised:
        access({variable: "/nowhere"}, [])
    assert raised.value.details["fields"][0]["field"] == variable


@pytest.mark.parametrize("variable", ["CNM_NATS_CA", "CNM_NATS_CERT"])
def test_file_that_is_no_certificate_is_named(variable, tmp_path):
    (tmp_path / "x").write_text("x")
    with pytest.raises(Invalid, match=f"{tmp_path}/x "):
        access({variable: f"{tmp_path}/x"}, [])


def test_key_without_a_certificate_is_refused(tmp_path):
    (tmp_path / "key").write_text("x")
    with pytest.raises(Invalid, match="CNM_NATS_CERT, which is unset"):
        access({"CNM_NATS_KEY": f"{tmp_path}/key"}, [])


def opened(url):
    return open_redis(url, connections=3, timeout_s=1, retry=Retry(NoBackoff(), 0))


@pytest.mark.parametrize("url", ["http://a", "redis+sentinel://a:1", "redis://a:port", "redis+sentinel://a:b/x"])
def test_what_is_no_url_of_redis_is_refused(url):
    with pytest.raises(Invalid, match="CNM_REDIS_URL"):
        opened(url)


def test_sentinels_are_told_by_url():
    redis = opened("rediss+sentinel://u:p%40@a:1,[fd00::1]:2,b/cnm/3?sentinel_password=s&ssl_ca_certs=/ca")
    pool = redis.connection_pool
    places = [each.connection_pool.connection_kwargs for each in pool.sentinel_manager.sentinels]
    assert [(each["host"], each["port"]) for each in places] == [("a", 1), ("fd00::1", 2), ("b", 26379)]
    assert {(each["password"], each["ssl_ca_certs"]) for each in places} == {("s", "/ca")}
    own = pool.connection_kwargs
    assert (pool.service_name, own["db"], own["username"], own["password"]) == ("cnm", 3, "u", "p@")
    assert own["ssl_ca_certs"] == "/ca"
    assert "SSL" in pool.connection_class.__name__
