"""Everything that the controller answers, one file a noun."""

from cnm.bus import Route
from cnm_controller import (
    change_handlers,
    endpoint_handlers,
    explain_handlers,
    network_handlers,
    node_handlers,
    port_handlers,
    sandbox_handlers,
    system_handlers,
)
from cnm_controller.controller import Controller


def routes(controller: Controller) -> tuple[Route, ...]:
    """Return all routes of this service."""
    return (
        *network_handlers.routes(controller),
        *sandbox_handlers.routes(controller),
        *endpoint_handlers.routes(controller),
        *change_handlers.routes(controller),
        *port_handlers.routes(controller),
        *node_handlers.routes(controller),
        *system_handlers.routes(controller),
        *explain_handlers.routes(controller),
    )
