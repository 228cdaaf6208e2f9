"""What the controller tells of itself and of the installation."""

from collections import Counter
from collections.abc import Sequence

from cnm.messages.drift import COMPARISONS
from cnm.metrics import (
    ENDPOINTS,
    LEFT_OUT,
    NETWORK_ENDPOINTS,
    NETWORK_INFO,
    NETWORKS,
    NODE_WORKERS,
    NODES,
    SAGAS_OPEN,
    SANDBOXES,
    Sample,
    Source,
    first,
)
from cnm_controller.controller import Controller, alive, is_ready
from cnm_controller.ports import Censuses


def sources(controller: Controller, censuses: Censuses, most: int) -> Sequence[Source]:
    """Return what is told: of at most so many networks and nodes one by one."""

    async def sagas() -> list[Sample]:
        return [*controller.sagas.counted.samples(), *controller.drift.samples()]

    async def census() -> list[Sample]:
        found = await censuses.take(most)
        return [
            NETWORKS(found.networks),
            SANDBOXES(found.sandboxes),
            ENDPOINTS(found.endpoints),
            SAGAS_OPEN(found.sagas),
            *(NETWORK_ENDPOINTS(count, name) for _, name, count in found.by_network),
            *(NETWORK_INFO(1, name, id[:12]) for id, name, _ in found.by_network),
            LEFT_OUT(max(0, found.networks - most), "network"),
        ]

    async def nodes() -> list[Sample]:
        now = controller.now()
        every = await controller.nodes.every()
        states = Counter("ready" if is_ready(each, now) else "down" for each in every)
        shown, left_out = first(every, most, "node")
        return [
            *(NODES(states[state], state) for state in ("ready", "down")),
            *(
                NODE_WORKERS(worker in alive(node, now), node.name, worker)
                for node in shown
                for worker in COMPARISONS
            ),
            left_out,
        ]

    return Source("sagas", sagas), Source("census", census), Source("nodes", nodes)
