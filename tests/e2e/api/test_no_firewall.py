"""A node whose rules are somebody else's affair (CNM_FIREWALL=off): no table of ours, the rest works."""

import json
import os
import subprocess
import sys

import pytest


@pytest.fixture
def unguarded(installed_with):
    with installed_with(CNM_FIREWALL="off") as made:
        yield made


def test_nothing_of_ours_is_in_nftables_and_ports_are_served_all_the_same(unguarded):
    unguarded.sh("nft add table inet users")
    network, _ = unguarded.ask("network.create", {"name": "web"})
    assert any("CNM_FIREWALL" in warning for warning in network["warnings"])
    box, _ = unguarded.ask("sandbox.create", {"name": "one", "ports": [{"container_port": 80, "host_port": 18900}]})
    unguarded.ask("sandbox.connect", {"sandbox": "one", "network": "web"})
    path = f"{unguarded.inside}{box['key']}"
    server = "h.HTTPServer(('', 80), h.SimpleHTTPRequestHandler)"
    serve = f"import http.server as h; s = {server}; print('there', flush=True); s.serve_forever()"
    with subprocess.Popen(
        ["nsenter", f"--net={path}", sys.executable, "-c", f"import os; os.chdir('/proc/self'); {serve}"],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=os.environ,
    ) as server:  # fmt: skip
        server.stdout.readline()
        for host in ("127.0.0.1", "[::1]"):
            fetched = unguarded.sh(f"curl -s -o /dev/null -w '%{{http_code}}' http://{host}:18900/stat")
            assert fetched == "200"
        server.kill()
    assert json.loads(unguarded.sh("nft -j list tables"))["nftables"][1:] == [
        {"table": {"family": "inet", "name": "users", "handle": 1}}
    ]
    unguarded.ask("sandbox.delete", {"sandbox": "one"})
    unguarded.ask("network.delete", {"network": "web"})
    assert "br-" not in unguarded.sh("ip link")
