"""An installation on servers that want to know who asks: passwords, nkeys, certificates, sentinels."""

import subprocess
import sys
import time

import nkeys
import pytest
import trustme

from cnm_cli.embedded import find_nats_server, find_redis_server

PORT, TLS_PORT = 4400, 4401
SECRET = "open-sesame"
SEED = b"SUACSSL3UAHUDXKFSNVUZRF5UHPMWZ6BFDTJ7M6USDXIEDNPPQYYYCU3VY"


class Servers:
    """Servers in an installation's network, as long as it lasts."""

    def __init__(self, installation):
        self._installation = installation
        self.folder = installation.folder
        self._processes = []

    def start(self, *words):
        with (self.folder / "servers.log").open("ab") as log:
            process = subprocess.Popen(self._installation.entering(*map(str, words)), stdout=log, stderr=log)
        self._processes.append(process)
        return process

    def listening(self, port):
        until = time.monotonic() + 15
        while f":{port} " not in self._installation.sh("ss -Hltn"):
            assert time.monotonic() < until, (self.folder / "servers.log").read_text()
            time.sleep(0.02)

    def nats(self, text):
        config = self.folder / "nats.conf"
        config.write_text(f'listen: "127.0.0.1:{PORT}"\njetstream {{ store_dir: "{self.folder}/nats" }}\n{text}')
        self.start(find_nats_server(), "-c", config)
        self.listening(PORT)

    def redis(self, *words, port=PORT + 10):
        self.start(find_redis_server(), "--port", port, "--bind", "127.0.0.1", "--save", "", *words)
        self.listening(port)

    def end(self):
        for process in self._processes:
            process.kill()
            process.wait()


@pytest.fixture
def stopped_installation(prepared, tmp_path):
    """An installation that nobody has started; its namespaces take with them what it made."""
    made = prepared(tmp_path)
    yield made
    made.close()


@pytest.fixture
def servers(stopped_installation):
    made = Servers(stopped_installation)
    yield made
    stopped_installation.end()  # who still uses servers that are gone waits for them
    made.end()


@pytest.fixture
def authority(tmp_path):
    """An authority, a server's certificate for 127.0.0.1 and one of a client, as files."""
    ca = trustme.CA()
    ca.cert_pem.write_to_path(tmp_path / "ca.pem")
    for name, identity in (("server", "127.0.0.1"), ("client", "cnm@example.test")):
        made = ca.issue_cert(identity)
        made.private_key_and_cert_chain_pem.write_to_path(tmp_path / f"{name}.pem")
        (tmp_path / f"{name}.key").write_bytes(made.private_key_pem.bytes())
    return tmp_path


def work(installation):
    """Have it do what takes every worker, and look at it with the command."""
    installation.up()
    installation.cnm("network", "create", "net", check=True)
    done = installation.cnm("run", "--network", "net", "--name", "box", "--", "ip", "addr", check=True)
    assert "172.17.0.2/16" in done.stdout or "172.18.0.2/16" in done.stdout
    installation.cnm("network", "rm", "net", check=True)
    assert "cnm-controller" in installation.cnm("status", check=True).stdout


def told(installation):
    """Return all that a person is told: logs, status and info."""
    shown = [installation.cnm(*words).stdout for words in (("status",), ("info",), ("node", "ls"))]
    return "\n".join([installation.log(), *shown])


WORKERS_MAY = """permissions { publish: ["cnm.v1.>", "$SRV.>", "_INBOX.>", "$JS.API.>"], \
subscribe: ["cnm.v1.>", "$SRV.>", "_INBOX.>"] }"""
CLIENTS_MAY = """permissions { publish: ["cnm.v1.network.>", "$SRV.PING.>"], \
subscribe: ["_INBOX.>", "cnm.v1.event.>"] }"""


def test_user_and_password_of_both_servers_and_no_more_rights_than_needed(stopped_installation, servers):
    """As docs/security.md says what workers and clients need."""
    servers.nats(
        f'authorization {{ users = [ {{ user: cnm, password: "{SECRET}", {WORKERS_MAY} }}, '
        f'{{ user: other, password: "x", {CLIENTS_MAY} }} ] }}'
    )
    servers.redis("--requirepass", SECRET)
    stopped_installation.env |= {
        "CNM_NATS_URL": f"nats://cnm:{SECRET}@127.0.0.1:{PORT}",
        "CNM_REDIS_URL": f"redis://:{SECRET}@127.0.0.1:{PORT + 10}/0",
    }
    work(stopped_installation)
    assert SECRET not in told(stopped_installation)
    assert "Permissions Violation" not in stopped_installation.log()
    theirs = {"CNM_NATS_URL": f"nats://other:x@127.0.0.1:{PORT}"}
    assert stopped_installation.cnm("network", "ls", **theirs).returncode == 0
    titles = subprocess.run(["ps", "axo", "args"], capture_output=True, text=True, check=True).stdout
    assert f"cnm:{SECRET}" not in titles


TERMINATOR = """
import asyncio, ssl, sys
port, path, certificate, authority = int(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4]
context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=authority)
context.load_cert_chain(certificate)
context.verify_mode = ssl.CERT_REQUIRED

async def carry(reader, writer):
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()

async def serve(reader, writer):
    behind = await asyncio.open_unix_connection(path)
    await asyncio.gather(carry(reader, behind[1]), carry(behind[0], writer), return_exceptions=True)

async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", port, ssl=context)
    await server.serve_forever()

asyncio.run(main())
"""


def test_nkey_and_certificates_on_both_sides_of_both_servers(stopped_installation, servers, authority):
    """The embedded Redis has no TLS of its own; what ends it in front of one is as good."""
    public = nkeys.from_seed(bytearray(SEED)).public_key.decode()
    servers.nats(
        f'authorization {{ users = [ {{ nkey: "{public}" }} ] }}\n'
        f'tls {{ cert_file: "{authority}/server.pem", key_file: "{authority}/server.key", '
        f'ca_file: "{authority}/ca.pem", verify: true }}'
    )
    socket = authority / "redis.sock"
    servers.start(find_redis_server(), "--port", 0, "--unixsocket", socket, "--save", "")
    servers.start(sys.executable, "-c", TERMINATOR, TLS_PORT, socket, authority / "server.pem", authority / "ca.pem")
    servers.listening(TLS_PORT)
    (authority / "cnm.nk").write_bytes(SEED)
    files = f"ssl_ca_certs={authority}/ca.pem&ssl_certfile={authority}/client.pem&ssl_keyfile={authority}/client.key"
    stopped_installation.env |= {
        "CNM_NATS_URL": f"tls://127.0.0.1:{PORT}",
        "CNM_NATS_NKEY": f"{authority}/cnm.nk",
        "CNM_NATS_CA": f"{authority}/ca.pem",
        "CNM_NATS_CERT": f"{authority}/client.pem",
        "CNM_REDIS_URL": f"rediss://127.0.0.1:{TLS_PORT}/0?{files}",
    }
    work(stopped_installation)
    for lacking in ("CNM_NATS_CA", "CNM_NATS_CERT", "CNM_NATS_NKEY"):
        refused = stopped_installation.cnm("network", "ls", **{lacking: ""})
        assert refused.returncode != 0
        assert f"tls://127.0.0.1:{PORT}" in refused.stderr


def test_redis_named_by_sentinels_goes_on_after_a_failover(stopped_installation, servers, wait_until):
    first, second, sentinel = PORT + 20, PORT + 21, PORT + 22
    for port in (first, second):
        (servers.folder / str(port)).mkdir()
    servers.redis("--dir", servers.folder / str(first), "--appendonly", "yes", port=first)
    servers.redis("--dir", servers.folder / str(second), "--replicaof", "127.0.0.1", first, port=second)
    config = servers.folder / "sentinel.conf"
    config.write_text(
        f"port {sentinel}\nbind 127.0.0.1\ndir {servers.folder}\nsentinel monitor cnm 127.0.0.1 {first} 1\n"
        "sentinel down-after-milliseconds cnm 500\nsentinel failover-timeout cnm 3000\n"
    )
    servers.start(find_redis_server(), config, "--sentinel")
    servers.listening(sentinel)
    installation = stopped_installation
    installation.env["CNM_REDIS_URL"] = f"redis+sentinel://127.0.0.1:{sentinel}/cnm"
    installation.up()
    installation.cnm("network", "create", "net", check=True)
    wait_until(lambda: in_step(installation, first))
    servers._processes[0].kill()
    wait_until(lambda: installation.cnm("network", "create", "other").returncode == 0, patience_s=40)
    assert installation.cnm("network", "ls", "-q", check=True).stdout.count("\n") >= 4
    for name in ("net", "other"):
        installation.cnm("network", "rm", name, check=True)


def in_step(installation, port):
    """Tell whether the replica has all that the first server wrote."""
    script = (
        f"import redis; told = redis.Redis(port={port}).info('replication'); "
        "print(told.get('slave0', {}).get('offset') == told['master_repl_offset'])"
    )
    done = subprocess.run(
        installation.entering(sys.executable, "-c", script), capture_output=True, text=True, check=True
    )
    return done.stdout == "True\n"


@pytest.mark.parametrize(
    ("nats", "redis", "words"),
    [("wrong", SECRET, ("Authorization Violation", f"nats://127.0.0.1:{PORT}")), (SECRET, "wrong", ("password",))],
)
def test_who_is_not_let_in_is_told_so_and_nothing_runs_on(stopped_installation, servers, nats, redis, words):
    servers.nats(f'authorization {{ user: cnm, password: "{SECRET}" }}')
    servers.redis("--requirepass", SECRET)
    urls = {
        "CNM_NATS_URL": f"nats://cnm:{nats}@127.0.0.1:{PORT}",
        "CNM_REDIS_URL": f"redis://:{redis}@127.0.0.1:{PORT + 10}",
    }
    done = stopped_installation.cnm("up", "--timeout", "12", **urls)
    assert done.returncode != 0
    assert list((stopped_installation.run_dir / "pids").iterdir()) == []
    for word in words:
        assert word in done.stderr, done.stderr
    for secret in ("wrong", SECRET):
        assert secret not in done.stderr
