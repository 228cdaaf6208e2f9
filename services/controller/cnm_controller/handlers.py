"""Everything that the controller answers, one file a noun."""

from cnm.bus import Route
from cnm_controller import endpoint_handlers, network_handlers, node_handlers, sandbox_handlers, system_handlers
from cnm_controller.controller import Controller


def routes(controller: Controller) -> tuple[Route, ...]:
    """Return all routes of this service."""
    return (
        *network_handlers.routes(controller),
        *sandbox_handlers.routes(controller),
        *endpoint_handlers.routes(controller),
        *node_handlers.routes(controller),
        *system_handlers.routes(controller),
    )
