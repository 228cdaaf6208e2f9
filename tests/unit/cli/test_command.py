import subprocess
import sys

import pytest

from cnm.errors import Conflict
from cnm.nats_access import without_secrets
from cnm_cli import __main__ as command
from cnm_cli.client import Service
from cnm_cli.output import table
from cnm_cli.status import rows


def test_help_needs_none_of_the_libraries_that_verbs_use() -> None:
    code = (
        "import sys\n"
        "from cnm_cli.__main__ import build_parser\n"
        "build_parser().format_help()\n"
        "print(*{'asyncio', 'msgspec', 'nats', 'cnm', 'subprocess', 'redis'} & set(sys.modules))"
    )
    done = subprocess.run((sys.executable, "-c", code), capture_output=True, text=True, check=True)
    assert done.stdout == "\n"


@pytest.mark.parametrize("arguments", [[], ["fly"], ["up", "--nats-port", "x"], ["up", "--nats-port", "65536"]])
def test_usage_error_exits_with_two(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit:
        command.main(arguments)
    assert exit.value.code == 2
    assert "usage: cnm" in capsys.readouterr().err


def test_refusal_exits_with_one_and_says_why_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(args: object) -> int:
        raise Conflict("taken\nby somebody")

    monkeypatch.setattr("cnm_cli.down.run", refuse)
    assert command.main(["down"]) == 1
    assert capsys.readouterr().err == "cnm: taken by somebody\n"


def test_unknown_worker_is_refused_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["status", "cnm-imap"]) == 1
    assert capsys.readouterr().err.startswith("cnm: there is no worker cnm-imap; there are cnm-controller")


def test_worker_is_ready_when_it_answers_for_this_node() -> None:
    services = [
        Service("cnm-ipam", "A", "0.1.0"),
        Service("cnm-sandbox", "B", "0.1.0", {"node": "n2"}),
        Service("cnm-resolver", "C", "0.1.0", {"node": "n1"}),
    ]
    names = ("cnm-ipam", "cnm-sandbox", "cnm-resolver", "cnm-controller")
    shown = rows(names, services, {"cnm-sandbox": 12, "cnm-resolver": 13}, node="n1")
    assert [tuple(row.values()) for row in shown] == [
        ("cnm-ipam", None, "ready", "0.1.0"),
        ("cnm-sandbox", 12, "starting", None),
        ("cnm-resolver", 13, "ready", "0.1.0"),
        ("cnm-controller", None, "down", None),
    ]


def test_table_aligns_columns_and_shows_nothing_as_a_dash() -> None:
    assert table(("name", "pid"), [("a", None), ("longer", 7), ("", 0)]) == (
        "NAME     PID\n"
        "a        -\n"
        "longer   7\n"
        "-        0"
    )  # fmt: skip


def test_messages_hide_passwords() -> None:
    assert without_secrets("nats://u:p@a:1,nats://b:2") == "nats://a:1,nats://b:2"
