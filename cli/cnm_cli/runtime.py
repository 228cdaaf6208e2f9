"""A running installation as its files in the run directory show it.

``cnm.lock`` is held (flock) by the one `cnm up` there may be, and names it; ``cnm.json`` tells other commands
where its servers are; ``pids/`` holds a file for each process it supervises.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from cnm.errors import Conflict, Unavailable
from cnm_cli.child import Identity, identity_of, read_identity
from cnm_cli.settings import DEFAULT_NATS_URL, Settings


class Instance(msgspec.Struct, frozen=True, kw_only=True):
    """What ``cnm.json`` holds."""

    pid: int
    nats_url: str
    redis_url: str
    node: str


def lock_path(settings: Settings) -> Path:
    """Where the lock of the installation is."""
    return settings.run_dir / "cnm.lock"


@contextmanager
def exclusive(settings: Settings) -> Iterator[None]:
    """Be the one `cnm up` of this run directory.

    Raises:
        Conflict: another one is; the message names its pid.
    """
    settings.run_dir.mkdir(mode=0o755, parents=True, exist_ok=True)
    descriptor = os.open(lock_path(settings), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = read_identity(lock_path(settings))
            name = f"process {holder.pid}" if holder else "a process that is just starting"
            raise Conflict(f"cnm is running already: {name} uses {settings.run_dir}") from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{identity_of(os.getpid())}\n".encode(), 0)
        try:
            yield
        finally:
            _instance_path(settings).unlink(missing_ok=True)
            os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)


def running(settings: Settings) -> Identity | None:
    """Find the process that holds the lock of this run directory.

    Raises:
        Unavailable: somebody holds it and has not said who: it is just starting or ending.
    """
    try:
        descriptor = os.open(lock_path(settings), os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = read_identity(lock_path(settings))
        if holder is None:
            raise Unavailable(
                f"a cnm that is just starting or ending holds {lock_path(settings)}, try again"
            ) from None
        return holder
    else:
        return None
    finally:
        os.close(descriptor)


def write_instance(settings: Settings, instance: Instance) -> None:
    """Tell other commands where the servers are; only root may read it, for a URL may hold a password."""
    path = _instance_path(settings)
    new = path.with_suffix(".new")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with open(descriptor, "wb") as file:  # noqa: PTH123  # a descriptor, for the mode
        file.write(msgspec.json.format(msgspec.json.encode(instance)) + b"\n")
    new.rename(path)


def read_instance(settings: Settings) -> Instance | None:
    """Read what the last `cnm up` wrote; None when there is nothing, or nothing we may read."""
    try:
        return msgspec.json.decode(_instance_path(settings).read_bytes(), type=Instance)
    except (FileNotFoundError, PermissionError, msgspec.DecodeError):
        return None


def find_nats_url(settings: Settings) -> str:
    """Find where a command should connect: the environment, else the running instance, else the default."""
    if settings.nats_url:
        return settings.nats_url
    instance = read_instance(settings)
    return instance.nats_url if instance else DEFAULT_NATS_URL


def _instance_path(settings: Settings) -> Path:
    return settings.run_dir / "cnm.json"
