"""Does the embedded Redis start on a file whose end is torn, with all that is whole before it?"""

import os
import subprocess
import time

import pytest
import redis as redis_py

from cnm_cli import embedded
from cnm_cli.torn import cut_torn_ends

WORD = b"a word with\r\n*3\r\n$3\r\n within"


class Server:
    def __init__(self, folder):
        self.data = folder / "data"
        self.data.mkdir()
        self.config = folder / "redis.conf"
        self.listen = folder / "s"
        self.config.write_text(embedded.redis_config(listen=self.listen, data_dir=self.data, fsync="always"))
        self.start()

    def start(self):
        command = (str(embedded.find_redis_server()), str(self.config))
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        self.client = redis_py.Redis(unix_socket_path=str(self.listen))
        deadline = time.monotonic() + 10
        while True:
            try:
                return self.client.ping()
            except redis_py.ConnectionError:
                assert self.process.poll() is None, "it does not start"
                assert time.monotonic() < deadline
                time.sleep(0.01)

    def kill(self):
        self.client.close()
        self.process.kill()
        self.process.wait()

    @property
    def file(self):
        (found,) = self.data.glob("appendonlydir/*.incr.aof")
        return found


@pytest.fixture
def server(tmp_path):
    made = Server(tmp_path)
    yield made
    made.kill()


def zeros_at_the_end(file, size):
    os.truncate(file, size + 5000)


def zeros_for_the_last_bytes(file, size):
    os.truncate(file, size - 30)
    os.truncate(file, size)


def garbage_at_the_end(file, size):
    with file.open("ab") as writing:
        writing.write(b"$7\r\ngarbage")


def a_hole(file, size):
    with file.open("r+b") as writing:
        writing.seek(size - 2000)
        writing.write(bytes(1024))


def a_command_that_ends_early(file, size):
    os.truncate(file, size - 1)


@pytest.mark.parametrize(
    ("tear", "kept"),
    [
        (zeros_at_the_end, 100),
        (zeros_for_the_last_bytes, 99),
        (garbage_at_the_end, 100),
        (a_hole, None),
        (a_command_that_ends_early, 99),
    ],
    ids=lambda each: getattr(each, "__name__", ""),
)
def test_whatever_is_whole_before_a_torn_end_is_there(server, tear, kept):
    for number in range(100):
        server.client.set(f"key{number}", WORD)
    server.kill()
    tear(server.file, server.file.stat().st_size)
    ((file, cut),) = cut_torn_ends(server.data)
    assert (file, cut > 0) == (server.file, True)
    assert list(cut_torn_ends(server.data)) == []
    server.start()
    there = {key.decode() for key in server.client.scan_iter()}
    assert there == {f"key{number}" for number in range(len(there))}
    assert len(there) == kept or (kept is None and 60 < len(there) < 99)
    assert server.client.get("key0") == WORD


def test_file_that_ended_well_is_left_alone(server):
    server.client.set("key", WORD * 1000)
    server.client.setbit("bits", 100_000, 1)
    server.kill()
    before = server.file.read_bytes()
    assert list(cut_torn_ends(server.data)) == []
    assert server.file.read_bytes() == before
    server.start()


def test_change_of_which_only_a_part_is_there_never_was(server):
    server.client.eval("redis.call('SET', 'a', 1) redis.call('SET', 'b', 1)", 0)
    server.client.eval("redis.call('SET', 'a', 2) redis.call('SET', 'b', 2)", 0)
    server.kill()
    end = server.file.read_bytes().rindex(b"*3\r\n$3\r\nSET\r\n$1\r\nb\r\n")
    for size in (end + 5, end):
        os.truncate(server.file, size)
        list(cut_torn_ends(server.data))
        server.start()
        assert server.client.mget("a", "b") == [b"1", b"1"]
        server.kill()
    server.start()


def test_server_with_nothing_to_cut_is_no_error(tmp_path):
    assert list(cut_torn_ends(tmp_path)) == []
