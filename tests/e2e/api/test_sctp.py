"""SCTP ports: served where the node's kernel has SCTP, else refused by protocol and port, with nothing changed."""

import subprocess

import pytest

SERVER = """
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 132); s.bind(("0.0.0.0", 3868)); s.listen(16)
print("there", flush=True)
while True:
    c, peer = s.accept(); c.recv(100); c.send(b"here " + peer[0].encode()); c.close()
"""
CLIENT = """
import socket, sys
host, port = sys.argv[1], int(sys.argv[2])
s = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM, 132)
s.settimeout(5); s.connect((host, port)); s.send(b"hello"); print(s.recv(100).decode())
"""
PORT = {"container_port": 3868, "protocol": "sctp"}


@pytest.fixture
def has_sctp(api):
    return api.ask("node.get", {"node": api.node})["kernel"]["sctp"]


def test_an_sctp_port_is_refused_where_the_kernel_lacks_it(api, make, has_sctp):
    if has_sctp:
        pytest.skip("this kernel has SCTP")
    box, waiting = make.sandbox(on=[make.network()]), make.sandbox()
    other = {"container_port": 80, "host_port": 18760}
    with api.unchanged():
        for more in ({}, {"host_port": 18761}, {"host_port": 18761, "host_port_end": 18769}):
            ports = [other, {**PORT, **more}]
            words = ("3868/sctp", "kernel has no sctp")
            api.refused("sandbox.create", {"name": api.name(), "ports": ports}, "unsupported", *words)
            for each in (box, waiting):
                api.refused("sandbox.publish", {"sandbox": each["id"], "ports": ports}, "unsupported", *words)


def test_an_sctp_port_carries_traffic_where_the_kernel_has_it(api, make, has_sctp):
    if not has_sctp:
        pytest.skip("this kernel has no SCTP (modprobe sctp)")
    network = make.network()
    box = make.sandbox(on=[network], ports=[PORT, {"container_port": 80, "host_port": 18765}])
    port = box["ports"][0]["host_port"]
    gateway = network["ipam"]["pools"][0]["gateway"]
    neighbour = make.sandbox(on=[make.network()])

    def ask(host, key=None):
        done = subprocess.run(
            ["nsenter", f"--net={api.path(key) if key else api.namespace}", "python3", "-c", CLIENT, host, str(port)],
            capture_output=True, text=True, check=False, timeout=30,
        )  # fmt: skip
        return done.stdout.strip() if done.returncode == 0 else None

    command = ["nsenter", f"--net={api.path(box['key'])}", "python3", "-c", SERVER]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout.readline() == "there\n"
            for host in (gateway, "127.0.0.1", "::1"):
                assert ask(host) == f"here {gateway}"
            assert ask(gateway, neighbour["key"]) is not None
            taken = {"name": api.name(), "ports": [{**PORT, "host_port": port}]}
            api.refused("sandbox.create", taken, "conflict", f"{port}/sctp", box["name"])
            api.ask("sandbox.unpublish", {"sandbox": box["id"], "ports": [PORT]})
            assert ask(gateway) is None
            assert ask("::1") is None
        finally:
            server.kill()
