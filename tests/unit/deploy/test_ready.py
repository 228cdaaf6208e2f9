"""What asks a container's worker whether it is ready."""

import socket
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest

READY = Path(__file__).parents[3] / "deploy/ready.py"


@contextmanager
def answering(reply):
    """Serve one connection."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve():
            connection, _ = server.accept()
            with connection:
                while not connection.recv(4096).endswith(b"\r\n\r\n"):
                    pass
                connection.sendall(reply)

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
        thread.join()


def ask(address):
    words, told = (sys.executable, "-IS", READY), {"CNM_METRICS_ADDRESS": address}
    return subprocess.run(words, env=told, capture_output=True, text=True, check=False)


def test_who_is_ready_is_told_so():
    with answering(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nready\n") as address:
        done = ask(address)

    assert (done.returncode, done.stderr) == (0, "")


def test_who_is_not_is_told_why():
    with answering(b"HTTP/1.1 503 Service Unavailable\r\n\r\nRedis: away\n") as address:
        done = ask(address)

    assert (done.returncode, done.stderr) == (1, "Redis: away\n")


@pytest.mark.parametrize("reply", [b"", b"\r\n\r\n", b"nonsense"])
def test_an_answer_that_is_none_is_no_readiness(reply):
    with answering(reply) as address:
        done = ask(address)

    assert (done.returncode, done.stderr) == (1, "no answer\n")


def test_silence_is_no_readiness():
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    done = ask(address)

    assert done.returncode == 1
    assert done.stderr.startswith(f"{address} does not answer: ")


def test_it_says_that_nobody_told_it_whom_to_ask():
    assert "CNM_METRICS_ADDRESS" in ask("").stderr
