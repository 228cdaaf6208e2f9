"""A sandbox worker with a run directory, and node files, of its own."""

import uuid

import pytest
from msgspec.structs import replace

from cnm.kernel import netns
from cnm.messages.namespace import SandboxSpec
from cnm.messages.node import SandboxSlice
from cnm_sandbox.config import Settings
from cnm_sandbox.service import open_service


@pytest.fixture
def settings(tmp_path):
    found = Settings(
        run_dir=tmp_path / "run",
        hosts=tmp_path / "etc" / "hosts",
        resolv_conf=tmp_path / "etc" / "resolv.conf",
        systemd_resolv_conf=tmp_path / "resolve" / "resolv.conf",
    )
    found.hosts.parent.mkdir()
    found.hosts.write_text("127.0.0.1\tlocalhost\n192.0.2.7\tthenode")  # no newline at its end
    found.resolv_conf.write_text("search example.com\nnameserver 192.0.2.53\noptions timeout:2\n")
    return found


@pytest.fixture
async def service(settings, namespace):
    """The worker's service; afterwards no namespace of its is left, as ``namespace`` makes sure."""
    async with open_service(settings) as found:
        yield found
    for path in settings.namespaces.glob("*"):
        netns.remove(path)


@pytest.fixture
def ask(service):
    """Send a command to the handler that answers it."""
    handlers = {route.command: route.handler for route in service.routes()}

    async def send(command):
        return await handlers[type(command)](command)

    return send


@pytest.fixture
def spec(settings):
    """Return a sandbox as the controller would tell of it."""

    def make(**changes):
        sandbox_id = uuid.uuid4().hex * 2
        directory = settings.directories / sandbox_id
        told = {
            "sandbox_id": sandbox_id,
            "name": "c1",
            "namespace": str(settings.namespaces / sandbox_id[:12]),
            "hosts_path": str(directory / "hosts"),
            "resolv_conf_path": str(directory / "resolv.conf"),
        }
        return SandboxSpec(**(told | changes))

    return make


@pytest.fixture
def sysctl(shell):
    """Read a setting in a namespace."""
    return lambda path, name: shell.run(path, "cat", f"/proc/sys/{name}").strip()


@pytest.fixture
def slice_of():
    """Return a slice that holds one sandbox, changed where told."""
    return lambda *specs, **changes: SandboxSlice(
        clock=1, sandboxes=[replace(each, **changes) for each in specs], busy=[]
    )
