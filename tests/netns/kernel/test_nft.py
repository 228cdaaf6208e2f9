"""Transactions by libnftables."""

import errno
import resource
import subprocess
import sys
import threading

import pytest

from cnm.errors import Unsupported
from cnm.kernel import nft as nft_module
from cnm.kernel.errors import NftError
from cnm.kernel.nft import Nft


@pytest.fixture
def nft(host):
    with Nft(host) as context:
        yield context


def test_transaction_lands_in_its_namespace(nft, host, container, shell):
    nft.run("add table inet t; add chain inet t c; add rule inet t c counter drop")
    assert [next(iter(each)) for each in shell.nft(host, "list", "ruleset")] == ["table", "chain", "rule"]
    assert shell.nft(container, "list", "ruleset") == []


def test_failed_transaction_changes_nothing(nft, host, shell):
    with pytest.raises(NftError):
        nft.run("add table inet t\nadd rule inet absent c drop")
    assert shell.nft(host, "list", "ruleset") == []


def test_dump_is_what_nft_prints(nft, host, shell):
    nft.run("add table inet t; add set inet t s { type inet_service; elements = { 80, 443 } }")
    assert nft.dump("list table inet t")["nftables"][1:] == shell.nft(host, "list", "table", "inet", "t")
    nft.run("delete table inet t")
    assert nft.dump("list ruleset")["nftables"][1:] == []


@pytest.mark.parametrize(
    ("commands", "number", "words"),
    [
        ("list table inet absent", errno.ENOENT, "No such file or directory"),
        ("create table inet t", errno.EEXIST, "File exists"),
        ("frobnicate", errno.EINVAL, "syntax error"),
    ],
)
def test_error_tells_errno_and_text(nft, commands, number, words):
    nft.run("add table inet t")
    with pytest.raises(NftError, match=words) as caught:
        nft.run(commands)
    assert caught.value.errno == number
    nft.run("add table inet still_works")


def test_context_is_used_from_another_thread(nft, host, shell):
    thread = threading.Thread(target=nft.run, args=("add table inet t",))
    thread.start()
    thread.join()
    assert shell.nft(host, "list", "tables") == [{"table": {"family": "inet", "name": "t", "handle": 1}}]


def test_closing_twice_is_fine(host):
    context = Nft(host)
    context.close()
    context.close()


MANY_FILES = """
import resource, sys
from pathlib import Path
from cnm.kernel.nft import Nft
from cnm.kernel.nfnl import dns_redirect

resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
host = Path(sys.argv[1])
context = Nft(host)
files = [open("/dev/null") for _ in range(2000)]
for number in range(50):
    context.run(f"add table inet t{number}")
    context.dump("list ruleset")
dns_redirect(host, 4000, 4001)
try:
    Nft(host)
except OSError as error:
    print(error)
for each in files:
    each.close()
context.close()
"""


@pytest.mark.skipif(resource.getrlimit(resource.RLIMIT_NOFILE)[1] < 4096, reason="needs 4096 open files")
def test_early_context_works_with_2000_files_open_and_a_late_one_is_refused(host, shell):
    # In a process of its own, since libnftables would abort it.
    done = subprocess.run(
        [sys.executable, "-c", MANY_FILES, str(host)], capture_output=True, text=True, check=False, timeout=50
    )
    assert done.returncode == 0, done.stderr
    assert "libnftables aborts from 1024 on" in done.stdout
    assert len(shell.nft(host, "list", "tables")) == 51


def test_missing_library_names_its_package(monkeypatch):
    monkeypatch.setattr(nft_module.ctypes.util, "find_library", lambda _: "libabsent.so.9")
    nft_module._library.cache_clear()
    with pytest.raises(Unsupported, match="libnftables1"):
        Nft()
    nft_module._library.cache_clear()
