"""Does `cnm run` run the command as if it stood alone, and is everything gone afterwards?"""

import os
import signal
import textwrap
from pathlib import Path

import pytest

TRAPPING = textwrap.dedent(
    """
    import signal, sys

    def say(number, frame):
        print(signal.Signals(number).name, flush=True)
        if number == signal.SIGTERM:
            sys.exit(3)

    for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGWINCH,
                   signal.SIGTERM, signal.SIGRTMIN + 3):
        signal.signal(number, say)
    print("ready", flush=True)
    while True:
        signal.pause()
    """
)


@pytest.fixture(autouse=True)
def nothing_ignored():
    """Ignore no signal, as what is started in the background or by nohup does: commands inherit that."""
    asked = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT)
    ignored = [each for each in asked if signal.getsignal(each) == signal.SIG_IGN]
    for each in ignored:
        signal.signal(each, signal.SIG_DFL)
    yield
    for each in ignored:
        signal.signal(each, signal.SIG_IGN)


@pytest.fixture(autouse=True)
def nothing_left(installation, wait_until):
    """Check that no test leaves a sandbox, a namespace or a directory."""
    yield
    wait_until(lambda: not installation.sandboxes())
    assert not list(Path(f"{installation.inside}{installation.run_dir}/netns").iterdir())
    assert not list((installation.run_dir / "sandboxes").iterdir())


@pytest.mark.parametrize(
    ("script", "status"), [("exit 0", 0), ("exit 7", 7), ("kill -TERM $$", 143), ("kill -KILL $$", 137)]
)
def test_exit_status_is_the_commands(installation, script, status):
    done = installation.cnm("run", "--", "sh", "-c", script)
    assert (done.returncode, done.stdout, done.stderr) == (status, "", "")


def test_unknown_command_is_127(installation):
    done = installation.cnm("run", "--", "no-such-command")
    assert (done.returncode, done.stderr) == (127, "cnm: no-such-command: No such file or directory\n")


def test_what_cannot_be_executed_is_126(installation):
    done = installation.cnm("run", "--", "/etc")
    assert (done.returncode, done.stderr) == (126, "cnm: /etc: Permission denied\n")


def test_refusal_of_cnm_is_125(installation):
    done = installation.cnm("run", "--network", "no-such-network", "--", "true")
    assert (done.returncode, done.stderr) == (125, "cnm: no network 'no-such-network'\n")


def test_installation_that_is_away_is_125_at_once(installation):
    done = installation.cnm("run", "--", "true", timeout=5, CNM_NATS_URL="nats://127.0.0.1:1")
    assert done.returncode == 125
    assert done.stderr.startswith("cnm: cannot reach NATS at nats://127.0.0.1:1: ")
    assert done.stderr.count("\n") == 1


def test_taken_name_is_125_and_its_holder_stays(installation):
    installation.cnm("sandbox", "create", "holder", check=True)
    done = installation.cnm("run", "--name", "holder", "--", "true")
    assert done.returncode == 125
    assert "'holder'" in done.stderr
    assert installation.sandboxes() == {"holder"}
    installation.cnm("sandbox", "rm", "holder", check=True)


@pytest.mark.parametrize("words", [("run",), ("run", "--"), ("run", "-p", "x", "--", "true"), ("exec", "s")])
def test_usage_error_is_2(installation, words):
    assert installation.cnm(*words).returncode == 2


def test_command_reads_and_writes_what_is_ours(installation):
    done = installation.cnm("run", "--", "sh", "-c", "cat; echo complaint >&2", stdin="text")
    assert (done.stdout, done.stderr) == ("text", "complaint\n")


def test_command_has_network_and_files_of_its_own(installation, lan):
    before = {name: Path(name).read_bytes() for name in ("/etc/hosts", "/etc/resolv.conf")}
    words = ("--name", "c1", "--hostname", "host1", "--add-host", "db.local:10.0.0.5", "--dns-search", "corp.example")
    script = "hostname; ls /sys/class/net; cat /etc/resolv.conf /etc/hosts; ip -4 -o addr show eth0"
    done = installation.cnm("run", *words, "--", "sh", "-c", script, check=True)
    lines = done.stdout.splitlines()
    assert lines[0] == "host1"
    assert "uplink0" not in lines
    assert {"eth0", "lo", "nameserver 127.0.0.11", "search corp.example", "10.0.0.5\tdb.local"} <= set(lines)
    address = lines[-1].split()[3].partition("/")[0]
    assert any(line.startswith(f"{address}\thost1") for line in lines)
    assert {name: Path(name).read_bytes() for name in before} == before
    mounts = Path(installation.inside.removesuffix("/root"), "mountinfo").read_text()
    assert " /etc/resolv.conf " not in mounts
    assert " /etc/hosts " not in mounts


def test_resolv_conf_that_is_a_link_is_covered_too(installation, tmp_path):
    script = textwrap.dedent(
        f"""
        set -e
        cp -a /etc {tmp_path}/etc
        mkdir {tmp_path}/resolve
        echo nameserver 192.0.2.53 > {tmp_path}/resolve/stub.conf
        ln -sf {tmp_path}/resolve/stub.conf {tmp_path}/etc/resolv.conf
        mount --bind {tmp_path}/etc /etc
        exec "$@"
        """
    )
    command = installation.command("run", "--", "cat", "/etc/resolv.conf")
    at = command.index("--") + 1
    wrapped = (*command[:at], "unshare", "--mount", "sh", "-c", script, "sh", *command[at:])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(installation, "command", lambda: wrapped)
        done = installation.cnm(check=True)
    assert "nameserver 127.0.0.11" in done.stdout
    assert (tmp_path / "resolve" / "stub.conf").read_text() == "nameserver 192.0.2.53\n"


def test_host_network_is_the_nodes_own(installation, lan):
    done = installation.cnm("run", "--network", "host", "--", "ip", "-o", "link", "show", "uplink0")
    assert (done.returncode, "uplink0" in done.stdout) == (0, True), done.stderr


def test_published_port_is_reached_from_the_lan_while_the_command_runs(installation, lan, wait_until):
    script = "import http.server as h; h.HTTPServer(('', 8000), h.SimpleHTTPRequestHandler).handle_request()"
    with installation.running("run", "-p", "8085:8000", "--", "python3", "-c", script) as process:
        fetch = f"curl -s -o /dev/null -w '%{{http_code}}' http://{installation.node_address}:8085/"
        answered = wait_until(lambda: installation.sh(fetch, at=lan, check=False).stdout == "200")
        assert answered
        assert process.wait(10) == 0


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGWINCH])
def test_signal_reaches_the_command_which_goes_on(installation, number):
    with installation.running("run", "--", "python3", "-c", TRAPPING) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        assert process.stdout.readline() == f"{number.name}\n"
        process.terminate()
        assert process.stdout.readline() == "SIGTERM\n"
        assert process.wait(10) == 3


def test_signal_that_ends_the_command_is_its_status(installation):
    with installation.running("run", "--", "sh", "-c", "echo ready; exec sleep 1000") as process:
        assert process.stdout.readline() == "ready\n"
        process.terminate()
        assert process.wait(10) == 143


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signal_before_there_is_a_command_ends_all(installation, wait_until, frozen, number):
    with installation.running("run", "--", "echo", "never") as process:
        with frozen(installation.pid("cnm-controller")):
            wait_until(lambda: _hands_signals_on(process.pid))
            process.send_signal(number)
        assert process.wait(20) == 128 + number
        assert process.stdout.read() == ""


def test_interrupt_of_the_terminal_reaches_the_command_once(installation):
    script = "trap 'echo got' INT; echo ready; read line; read line; exit 5"
    with installation.on_terminal("run", "--", "bash", "-c", script) as (process, terminal):
        seen = _read_until(terminal, b"ready\r\n")
        terminal.write(b"\x03one\ntwo\n")  # bash may not run a trap before the read that it came just before returns
        seen += _read_until(terminal, b"got\r\n")
        assert process.wait(10) == 5
        assert seen.count(b"got") == 1


def test_shell_on_the_terminal_has_job_control(installation):
    with installation.on_terminal("run", "--", "bash", "--norc", "-i") as (process, terminal):
        terminal.write(b"PS1=; stty -echo; set -m; sleep 1000 & jobs -r; kill %1; wait; echo over\n")
        seen = _read_until(terminal, b"over\r\n", times=2)
        assert b"no job control" not in seen
        terminal.write(b"exit 4\n")
        assert process.wait(10) == 4


def test_what_the_command_left_running_is_killed(installation, gone, wait_until):
    done = installation.cnm("run", "--", "sh", "-c", "setsid sleep 1000 & echo $!", check=True)
    wait_until(lambda: gone(int(done.stdout)))


def test_killed_run_takes_its_command_and_sandbox_with_it(installation, gone, wait_until):
    script = "setsid sleep 1000 & echo $! $$; exec sleep 1000"
    with installation.running("run", "--name", "doomed", "--", "sh", "-c", script) as process:
        pids = [int(word) for word in process.stdout.readline().split()]
        assert installation.sandboxes() == {"doomed"}
        process.kill()
        process.wait()
        for pid in pids:
            wait_until(lambda pid=pid: gone(pid))
        wait_until(lambda: not installation.sandboxes())


def test_run_killed_while_it_asks_leaves_nothing(installation, wait_until, gone, frozen):
    with installation.running("run", "--name", "early", "--", "true") as process:
        with frozen(installation.pid("cnm-controller")):
            wait_until(lambda: _hands_signals_on(process.pid))
            (reaper,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            process.kill()
            process.wait()
        wait_until(lambda: gone(int(reaper)))
        wait_until(lambda: not installation.sandboxes())


def test_sandbox_is_deleted_although_nats_was_away(own_installation, wait_until):
    with own_installation.running("run", "--", "sh", "-c", "echo ready; read line; exit 6") as process:
        assert process.stdout.readline() == "ready\n"
        os.kill(own_installation.pid("nats"), signal.SIGKILL)
        process.stdin.write("go\n")
        process.stdin.flush()
        assert process.wait(20) == 6
        assert process.stderr.read() == ""
    assert not own_installation.sandboxes()


def test_sandbox_is_deleted_when_cnm_comes_back(own_installation, wait_until):
    with own_installation.running("run", "--", "sh", "-c", "echo ready; exec sleep 1000") as process:
        assert process.stdout.readline() == "ready\n"
        own_installation.down()
        process.kill()
        process.wait()
        own_installation.up()
        wait_until(lambda: not own_installation.sandboxes())


def _hands_signals_on(pid):
    """Tell whether a `cnm run` has its handlers: for SIGUSR1, since Python itself has one for SIGINT."""
    status = Path(f"/proc/{pid}/status").read_text()
    caught = int(next(line for line in status.splitlines() if line.startswith("SigCgt")).split()[1], 16)
    return bool(caught >> (signal.SIGUSR1 - 1) & 1)


def _read_until(terminal, end, *, times=1):
    seen = b""
    while seen.count(end) < times:
        seen += terminal.read(4096)
    return seen
