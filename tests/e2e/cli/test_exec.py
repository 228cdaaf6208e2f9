"""Does `cnm exec` put a command into a sandbox, and nothing else of this machine?"""

import pytest


@pytest.fixture(scope="module")
def box(installation):
    installation.cnm("network", "create", "exec-net", check=True)
    installation.cnm("sandbox", "create", "--network", "exec-net", "--hostname", "boxed", "exec-box", check=True)
    yield "exec-box"
    installation.cnm("sandbox", "rm", "exec-box", check=True)
    installation.cnm("network", "rm", "exec-net", check=True)


@pytest.mark.parametrize(("script", "status"), [("exit 0", 0), ("exit 9", 9), ("exit 125", 125)])
def test_exit_status_is_the_commands(installation, box, script, status):
    assert installation.cnm("exec", box, "--", "sh", "-c", script).returncode == status


def test_command_sees_what_the_sandbox_has(installation, box):
    done = installation.cnm(
        "exec", box, "--", "sh", "-c", "hostname; cat /etc/resolv.conf; ls /sys/class/net", check=True
    )
    lines = done.stdout.splitlines()
    assert lines[0] == "boxed"
    assert "nameserver 127.0.0.11" in lines
    assert sorted(lines[-2:]) == ["eth0", "lo"]


def test_name_of_a_neighbour_resolves_inside(installation, box):
    installation.cnm("sandbox", "create", "--network", "exec-net", "exec-peer", check=True)
    done = installation.cnm("exec", box, "--", "getent", "hosts", "exec-peer", check=True)
    peer = installation.ask("sandbox.get", {"sandbox": "exec-peer"})[0]
    assert done.stdout.split()[0] == peer["endpoints"][0]["ipv4_address"].partition("/")[0]
    installation.cnm("sandbox", "rm", "exec-peer", check=True)


@pytest.mark.parametrize(("command", "status"), [("no-such-command", 127), ("/etc", 126)])
def test_command_that_cannot_begin(installation, box, command, status):
    done = installation.cnm("exec", box, "--", command)
    assert done.returncode == status
    assert done.stderr.startswith(f"cnm: {command}: ")


def test_unknown_sandbox_is_125(installation):
    done = installation.cnm("exec", "no-such-box", "--", "true")
    assert (done.returncode, done.stderr) == (125, "cnm: no sandbox 'no-such-box'\n")


def test_signal_goes_to_the_command_itself(installation, box):
    with installation.running("exec", box, "--", "sh", "-c", "trap 'exit 8' TERM; echo ready; read line") as process:
        assert process.stdout.readline() == "ready\n"
        process.terminate()
        process.stdin.close()
        assert process.wait(10) == 8
