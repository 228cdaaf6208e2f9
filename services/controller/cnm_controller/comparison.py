"""Asks the workers of every node what is not as it should be."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from cnm.bus import current_call
from cnm.errors import CnmError
from cnm.messages.drift import COMPARISONS, Comparison, Difference
from cnm_controller.controller import Controller, alive
from cnm_controller.ports import NodeState

MENDING = ("cnm-sandbox", "cnm-driver-bridge", "cnm-sandbox", "cnm-port-mapper", "cnm-resolver")
"""In which order: namespaces before links, and default routes after them."""
PART = 0.4
"""Of the time that is left, what is waited for one worker."""


@dataclass(frozen=True)
class Compared:
    """What the workers told, which of them did, and who did not."""

    differences: Sequence[Difference]
    workers: Sequence[str]
    warnings: Sequence[str]


async def compare_nodes(controller: Controller, *, repair: bool) -> Compared:
    """Have every worker of every node compare what stands with what should, and mend it when asked to."""
    nodes = await controller.nodes.every()
    found = await asyncio.gather(*(_compare_node(controller, node, repair=repair) for node in nodes))
    return Compared(
        differences=[each for one in found for each in one.differences],
        workers=sorted({worker for one in found for worker in one.workers}),
        warnings=[warning for one in found for warning in one.warnings],
    )


async def _compare_node(controller: Controller, node: NodeState, *, repair: bool) -> Compared:
    up = alive(node, controller.now())
    asked = [name for name in (MENDING if repair else COMPARISONS) if name in up]
    if repair:
        answers = [await _ask(controller, node, name, repair=True) for name in asked]
    else:
        answers = await asyncio.gather(*(_ask(controller, node, name, repair=False) for name in asked))
    last = {name: number for number, name in enumerate(asked)}
    differences: list[Difference] = []
    warnings = [f"{name} of node {node.name!r} is not there" for name in COMPARISONS if name not in up]
    for number, (name, answer) in enumerate(zip(asked, answers, strict=True)):
        if isinstance(answer, str):
            warnings.append(answer)
        else:  # what had to wait for another worker's mending counts when it was asked again
            differences += (each for each in answer.differences if each.repaired or number == last[name])
    told = {name for name, answer in zip(asked, answers, strict=True) if not isinstance(answer, str)}
    return Compared(differences, sorted(told), warnings)


async def _ask(controller: Controller, node: NodeState, worker: str, *, repair: bool) -> Comparison | str:
    """Return what one worker tells, or why it does not; none may use up all the time that the client has."""
    call = current_call()
    try:
        async with asyncio.timeout(call.left_s() * PART if call else None):
            answer: Comparison = await controller.bus.ask(COMPARISONS[worker](repair=repair), node=node.name)
    except TimeoutError:
        return f"{worker} of node {node.name!r} does not answer"
    except CnmError as error:
        return f"{worker} of node {node.name!r} does not tell: {error.message}"
    return answer
