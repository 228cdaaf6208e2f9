"""Every command, reply and event, declared once, one file an owner."""

from typing import Any

from cnm.messages.bridge import BRIDGE_COMMANDS
from cnm.messages.drift import COMPARISONS, DRIFT_COMMANDS
from cnm.messages.endpoint import ENDPOINT_COMMANDS, Endpoint
from cnm.messages.ipam import IPAM_COMMANDS
from cnm.messages.ipam_driver import ANNOUNCEMENTS
from cnm.messages.message import Command
from cnm.messages.names import NAME_COMMANDS
from cnm.messages.namespace import NAMESPACE_COMMANDS
from cnm.messages.network import NETWORK_COMMANDS, Network
from cnm.messages.node import NODE_COMMANDS
from cnm.messages.ports import PORT_COMMANDS
from cnm.messages.sandbox import SANDBOX_COMMANDS, Sandbox
from cnm.messages.system import SYSTEM_COMMANDS
from cnm.messages.told import ToldAddress, ToldDrift, ToldNode, ToldPool, ToldPorts

COMMANDS: dict[str, tuple[type[Command[Any]], ...]] = {
    "cnm-controller": (
        *NETWORK_COMMANDS,
        *ENDPOINT_COMMANDS,
        *SANDBOX_COMMANDS,
        *NODE_COMMANDS,
        *DRIFT_COMMANDS,
        *SYSTEM_COMMANDS,
        *ANNOUNCEMENTS,
    ),
    "cnm-ipam": IPAM_COMMANDS,
    "cnm-sandbox": (*NAMESPACE_COMMANDS, COMPARISONS["cnm-sandbox"]),
    "cnm-driver-bridge": (*BRIDGE_COMMANDS, COMPARISONS["cnm-driver-bridge"]),
    "cnm-port-mapper": (*PORT_COMMANDS, COMPARISONS["cnm-port-mapper"]),
    "cnm-resolver": (*NAME_COMMANDS, COMPARISONS["cnm-resolver"]),
}
"""The commands that each service answers."""

EVENTS: dict[str, tuple[str, ...]] = {
    "network": ("created", "updated", "deleted"),
    "endpoint": ("created", "joined", "left", "updated", "deleted", "ready", "unready"),
    "sandbox": ("created", "updated", "deleted"),
    "port": ("published", "unpublished"),
    "pool": ("requested", "released", "conflict"),
    "address": ("requested", "released"),
    "service": ("created", "updated", "deleted"),
    "node": ("joined", "left", "down"),
    "drift": ("found", "repaired"),
}
"""The participles of each noun that events are published of."""

UNPUBLISHED = ("service.created", "service.updated", "service.deleted", "node.down")
"""The kinds of events that the contract names and nothing publishes yet."""

OBJECTS: dict[str, type] = {
    "network": Network,
    "endpoint": Endpoint,
    "sandbox": Sandbox,
    "port": ToldPorts,
    "pool": ToldPool,
    "address": ToldAddress,
    "node": ToldNode,
    "drift": ToldDrift,
}
"""What the events of a noun hold as their ``object``."""
