"""On which node does a sandbox come, and what when none is ready?"""

import dataclasses
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from cnm.errors import NotFound, Unavailable
from cnm.messages.node import NodeWorker
from cnm.testing import MemoryBus, MemoryStore
from cnm_controller.controller import SEEN_WITHIN
from cnm_controller.ports import NodeState

sys.path.insert(0, str(Path(__file__).parent))
from world import controller_of  # beside this file

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def node(name, *, silent=()):
    """Describe a node, some of whose workers were not heard of lately."""
    long_ago = NOW - SEEN_WITHIN - timedelta(seconds=1)
    workers = [
        NodeWorker(name=each, state="ready", version="1", pid=1, last_seen=long_ago if each in silent else NOW)
        for each in ("cnm-driver-bridge", "cnm-sandbox")
    ]
    return NodeState(name=name, run_dir="/run/cnm", workers=workers)


class Nodes:
    """Tells something else each time it is asked, and the last for ever."""

    def __init__(self, *told):
        self._told = list(told)

    async def every(self):
        return self._told.pop(0) if len(self._told) > 1 else self._told[0]


def choosing(*told, wait_s=30.0):
    made = controller_of(MemoryStore(), MemoryBus())
    return dataclasses.replace(made, nodes=Nodes(*told), node_wait_s=wait_s, now=lambda: NOW)


SILENT = node("n1", silent=["cnm-sandbox"])


async def test_first_node_that_is_ready_is_taken_and_a_named_one_before_others():
    nodes = [SILENT, node("n2"), node("n3")]
    assert (await choosing(nodes).node_for(None)).name == "n2"
    assert (await choosing(nodes).node_for("n3")).name == "n3"


@pytest.mark.parametrize("named", [None, "n1"])
async def test_worker_that_is_just_started_again_is_waited_for(named):
    assert (await choosing([SILENT], [SILENT], [node("n1")]).node_for(named)).name == "n1"


@pytest.mark.parametrize(("named", "said"), [(None, "no node is ready"), ("n1", "node 'n1' is down")])
async def test_but_not_for_ever(named, said):
    with pytest.raises(Unavailable, match=said):
        await choosing([SILENT], wait_s=0.15).node_for(named)


async def test_node_that_never_was_is_not_waited_for():
    with pytest.raises(NotFound, match="n9"):
        await choosing([node("n1")]).node_for("n9")
