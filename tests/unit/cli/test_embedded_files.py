from pathlib import Path

import pytest

from cnm.errors import Invalid
from cnm_cli.embedded import find_listener, nats_config, redis_config


def test_nats_listens_on_loopback_only_and_takes_bodies_that_are_too_large() -> None:
    assert nats_config(port=4222, store_dir=Path("/var/lib/cnm/nats"), node="n1", fsync="everysec") == (
        'server_name: "n1"\nlisten: 127.0.0.1:4222\nmax_payload: 16MB\n'
        'jetstream { store_dir: "/var/lib/cnm/nats", sync_interval: "1s" }\n'
    )


def test_redis_listens_on_its_socket_only_and_keeps_an_append_only_file() -> None:
    folder = Path("/var/lib/cnm/redis")
    lines = redis_config(listen=Path("/run/cnm/redis.sock"), data_dir=folder, fsync="always").splitlines()
    assert lines[:4] == [
        "port 0",
        'unixsocket "/run/cnm/redis.sock"',
        "unixsocketperm 700",
        'dir "/var/lib/cnm/redis"',
    ]
    assert {"appendonly yes", "appendfsync always"} <= set(lines)


@pytest.mark.parametrize("node", ['n"1', "n\n1", "$n", "n\\1"])
def test_name_that_would_break_the_configuration_is_refused(node: str) -> None:
    with pytest.raises(Invalid, match="holds a quote"):
        nats_config(port=1, store_dir=Path("/s"), node=node, fsync="always")


HEADINGS = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"


def test_listener_is_found_in_proc(tmp_path: Path) -> None:
    (tmp_path / "net").mkdir()
    (tmp_path / "net/tcp").write_text(
        HEADINGS
        + "   0: 0100007F:107E 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0 100\n"
        + "   1: 0100007F:107F 00000000:0000 01 00000000:00000000 00:00000000 00000000     0        0 4712 1 0 100\n"
    )
    (tmp_path / "42/fd").mkdir(parents=True)
    (tmp_path / "42/comm").write_text("nats-server\n")
    (tmp_path / "42/fd/7").symlink_to("socket:[4711]")
    (tmp_path / "43").mkdir()  # a process that ended while we looked
    assert find_listener(4222, tmp_path) == "nats-server (pid 42)"
    assert find_listener(4223, tmp_path) is None, "that one is connected, and does not listen"
