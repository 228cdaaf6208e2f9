"""Removes everything an installation made: over the bus first, then what is left in the kernel.

Tear-down does all it can and returns the errors.
"""

import ctypes
import json
import os
import subprocess
from collections.abc import Awaitable, Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from cnm.errors import CnmError, Internal, NotFound
from cnm_cli.settings import Settings

PREDEFINED = ("none", "host", "bridge")
MARK = "cnm:"
"""Begins the ifalias of every interface of ours (section 11 of the public contract)."""
TABLE_PREFIX = "cnm"
USER_CHAIN = "cnm-user"
MNT_DETACH = 2  # umount2(2)

Ask = Callable[[str, Mapping[str, Any]], Awaitable[dict[str, Any]]]


async def remove_everything(ask: Ask) -> list[CnmError]:
    """Delete every sandbox, endpoint and network; predefined networks stay. What is gone already is no error."""
    failures: list[CnmError] = []

    async def delete(subject: str, body: Mapping[str, Any]) -> None:
        try:
            await ask(subject, body)
        except NotFound:
            return
        except CnmError as error:
            failures.append(error)

    for sandbox in (await ask("cnm.v1.sandbox.list", {}))["sandboxes"]:
        await delete("cnm.v1.sandbox.delete", {"sandbox": sandbox["id"]})
    for endpoint in (await ask("cnm.v1.endpoint.list", {}))["endpoints"]:
        body = {"network": endpoint["network"], "endpoint": endpoint["id"], "force": True}
        await delete("cnm.v1.endpoint.delete", body)
    networks = (await ask("cnm.v1.network.list", {}))["networks"]
    for network in sorted(networks, key=lambda network: bool(network.get("config_only"))):  # others use those
        if network["name"] not in PREDEFINED:
            await delete("cnm.v1.network.delete", {"network": network["id"], "force": True})
    return failures


def sweep(settings: Settings) -> list[CnmError]:
    """Remove from the kernel what no worker did: namespaces, interfaces and tables of ours."""
    failures: list[CnmError] = []
    for path in sorted((settings.run_dir / "netns").glob("*")):
        _unmount(path)
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            failures.append(Internal(f"cannot remove {path}: {error.strerror}"))
    links = _read_json("ip", "-j", "link", "show")
    ruleset = _read_json("nft", "-j", "list", "ruleset")
    for command in (*plan_links(links or []), *plan_tables((ruleset or {}).get("nftables", []))):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0 and not _is_gone(done.stderr):
            failures.append(Internal(f"{' '.join(command)}: {done.stderr.strip().splitlines()[0]}"))
    return failures


def plan_links(links: Iterable[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """Decide which interfaces to delete: those that carry our mark."""
    return [
        ("ip", "link", "delete", "dev", link["ifname"])
        for link in links
        if str(link.get("ifalias", "")).startswith(MARK)
    ]


def plan_tables(ruleset: Iterable[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """Decide which tables to delete: ours, but not one whose user chain holds rules."""
    entries = list(ruleset)
    kept = {
        (entry["rule"]["family"], entry["rule"]["table"])
        for entry in entries
        if entry.get("rule", {}).get("chain") == USER_CHAIN
    }
    tables = [entry["table"] for entry in entries if "table" in entry]
    return [
        ("nft", "delete", "table", table["family"], table["name"])
        for table in tables
        if table["name"].startswith(TABLE_PREFIX) and (table["family"], table["name"]) not in kept
    ]


def _is_gone(stderr: str) -> bool:
    return "Cannot find device" in stderr or "No such file or directory" in stderr


def _read_json(*command: str) -> Any:
    done = subprocess.run(command, capture_output=True, check=False)
    return json.loads(done.stdout) if done.returncode == 0 and done.stdout.strip() else None


def _unmount(path: Path) -> None:
    """Unmount a namespace from its file; a file with nothing mounted on it is fine."""
    ctypes.CDLL(None).umount2(os.fsencode(path), MNT_DETACH)
