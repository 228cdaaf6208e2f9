"""The sandbox worker of a node: namespaces, hosts and resolv.conf files, default routes."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from cnm import worker
from cnm.messages.node import GetSandboxSlice, SandboxSlice
from cnm.worker import Converging, Service, Worker
from cnm_sandbox.config import Settings
from cnm_sandbox.service import open_service


@asynccontextmanager
async def build(own: Worker) -> AsyncIterator[Service]:
    """Wire the service."""
    async with open_service(Settings.of(own.settings)) as service:

        async def ask(clock: int | None) -> SandboxSlice:
            return await own.bus.ask(GetSandboxSlice(node=own.settings.node, known_clock=clock))

        async def apply(wanted: SandboxSlice) -> Sequence[str]:
            return (await service.converge(wanted)).lines()

        async with worker.reporting(own, service.describe):
            converging = Converging(lambda clock: service.fetch(ask, clock), apply)
            await converging.first()
            own.tasks.create_task(converging.keep())
            yield Service(routes=service.routes())


def main() -> None:
    """Run the worker until it is told to stop."""
    worker.run("cnm-sandbox", build, description="namespaces and their files", on_node=True)


if __name__ == "__main__":
    main()
