"""The sandbox worker of a node: namespaces, hosts and resolv.conf files, default routes."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from cnm import worker
from cnm.bus import Route
from cnm.kernel.watch import watching_routes
from cnm.messages.drift import CompareSandboxes, Difference
from cnm.messages.ipam import NodeRoute, ReportRoutes
from cnm.messages.node import GetSandboxSlice, SandboxSlice
from cnm.worker import Converging, Service, Worker
from cnm_sandbox.config import Settings
from cnm_sandbox.route_reports import RouteReports
from cnm_sandbox.service import open_service


@asynccontextmanager
async def build(own: Worker) -> AsyncIterator[Service]:
    """Wire the service."""
    async with open_service(Settings.of(own.settings)) as service:

        async def ask(clock: int | None) -> SandboxSlice:
            return await own.bus.ask(GetSandboxSlice(node=own.settings.node, known_clock=clock))

        async def apply(wanted: SandboxSlice) -> Sequence[Difference]:
            return (await service.converge(wanted)).differences(wanted, repaired=True)

        async def look(wanted: SandboxSlice) -> Sequence[Difference]:
            return (await service.compare(wanted)).differences(wanted, repaired=False)

        async def tell(routes: Sequence[NodeRoute]) -> None:
            await own.bus.ask(ReportRoutes(node=own.settings.node, routes=list(routes)))

        reports = RouteReports(service, tell)
        async with worker.reporting(own, service.describe):
            with watching_routes(reports.note):
                await reports.once()
                converging = Converging(
                    own,
                    lambda clock: service.fetch(ask, clock),
                    apply,
                    look=look,
                    suspect_all=service.suspect_all,
                )
                service.listen(converging.wake)
                await converging.first()
                own.tasks.create_task(reports.keep())
                own.tasks.create_task(converging.keep())
                compare = Route(command=CompareSandboxes, handler=converging.compare)
                yield Service(routes=[*service.routes(), compare], sources=[service.source(), converging.source()])


def main() -> None:
    """Run the worker until it is told to stop."""
    worker.run("cnm-sandbox", build, description="namespaces and their files", on_node=True)


if __name__ == "__main__":
    main()
