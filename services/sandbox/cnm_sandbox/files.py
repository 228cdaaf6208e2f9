"""The files of sandboxes, and those of the node that they follow.

A container has its file bind-mounted over /etc/hosts or /etc/resolv.conf, so a file keeps its inode: it is
written in place, never renamed. One write brings the new text, padded with blank lines to the old length, and the
padding is cut off after it: a reader sees the old text or the new one, never half a line.

Beside each file a record holds what we may have written: the lines of hosts, the hashes of resolv.conf. It is
widened before the file is written and narrowed after, so that a crash in between makes nothing of ours look like
a user's edit.
"""

import errno
import os
import shutil
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from cnm.messages.namespace import SandboxSpec
from cnm_sandbox import hosts, resolv
from cnm_sandbox.config import Settings
from cnm_sandbox.namespace import HOST

Glance = tuple[int, int, int, int] | None

MODE = 0o644
DIRECTORY_MODE = 0o755


def read(path: Path) -> str:
    """Return a file's text, nothing when there is none; what is not UTF-8 survives a copy."""
    try:
        return path.read_text(errors="surrogateescape")
    except FileNotFoundError:
        return ""


def glance(path: str | Path) -> Glance:
    """Return what tells that a file is another one, or was written to; None where there is none."""
    try:
        found = os.stat(path)  # noqa: PTH116  # a tenth of Path.stat's time, and there are thousands
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def write_in_place(path: Path, text: str) -> None:
    """Make a file hold a text; its inode stays."""
    path.parent.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
    content = text.encode(errors="surrogateescape")
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, MODE)
    try:
        size = os.fstat(fd).st_size
        if not size:
            os.fchmod(fd, MODE)  # whatever the umask: a container's users read it
        padded = content.ljust(size, b"\n")
        if os.pwrite(fd, padded, 0) != len(padded):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        if size > len(content):
            os.ftruncate(fd, len(content))
    finally:
        os.close(fd)


class SandboxFiles:
    """Writes and removes the files of sandboxes; each method blocks for some file operations."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def origin(self) -> Path:
        """Return the node's file that tells its search domains and servers: systemd-resolved's where it rules."""
        settings = self._settings
        if settings.systemd_resolv_conf.exists() and resolv.is_systemd_stub(read(settings.resolv_conf)):
            return settings.systemd_resolv_conf
        return settings.resolv_conf

    def glance_origins(self) -> tuple[Glance, ...]:
        """Return what tells that the node's own files are others than before."""
        settings = self._settings
        return tuple(map(glance, (settings.hosts, settings.resolv_conf, settings.systemd_resolv_conf)))

    def write(self, spec: SandboxSpec) -> tuple[str, ...]:
        """Make both files stand; return the paths of those that were written."""
        return tuple(each.path for each in (self._hosts(spec), self._resolv_conf(spec)) if _replace(each))

    def compare(self, spec: SandboxSpec) -> tuple[str, ...]:
        """Return the paths of those that ``write`` would write."""
        return tuple(each.path for each in (self._hosts(spec), self._resolv_conf(spec)) if not _holds(each))

    def _hosts(self, spec: SandboxSpec) -> "_Text":
        if spec.namespace == HOST:
            wanted = hosts.extend(read(self._settings.hosts), spec.hosts)
        else:
            wanted = hosts.render(spec.hosts, enable_ipv6=spec.enable_ipv6)
        path = Path(spec.hosts_path)
        record = hosts_record(path)
        ours = read(record).splitlines()
        text = hosts.merge(wanted, read(path), frozenset(ours))
        return _Text(spec.hosts_path, text, record, ours, wanted.splitlines())

    def _resolv_conf(self, spec: SandboxSpec) -> "_Text":
        if spec.namespace == HOST:
            wanted = resolv.render_host(
                read(self._settings.resolv_conf), servers=spec.servers, search=spec.search, options=spec.options
            )
        elif not spec.embedded:
            wanted = resolv.render_external(
                resolv.parse(read(self.origin())),
                servers=spec.servers, search=spec.search, options=spec.options, enable_ipv6=spec.enable_ipv6,
            )  # fmt: skip
        else:
            wanted = resolv.render(resolv.parse(read(self.origin())), search=spec.search, options=spec.options)
        path = Path(spec.resolv_conf_path)
        record = resolv_conf_record(path)
        ours = read(record).split()
        edited = read(path)
        if resolv.is_edited(edited, ours):
            return _Text(spec.resolv_conf_path, edited, record, ours, ours)
        return _Text(spec.resolv_conf_path, wanted, record, ours, [resolv.fingerprint(wanted)])

    def remove(self, spec: SandboxSpec) -> None:
        """Remove a sandbox's files and its directory; what is gone is fine."""
        for path in (Path(spec.hosts_path), Path(spec.resolv_conf_path)):
            for each in (path, hosts_record(path), resolv_conf_record(path)):
                each.unlink(missing_ok=True)
        self.remove_directory(spec.sandbox_id)

    def remove_directory(self, sandbox_id: str) -> None:
        """Remove what is left of a sandbox's files; what is gone is fine."""
        with suppress(FileNotFoundError):
            shutil.rmtree(self._settings.directories / sandbox_id)


def hosts_record(path: Path) -> Path:
    """Return where the lines are kept that we wrote into a hosts file."""
    return path.with_name(path.name + ".lines")


def resolv_conf_record(path: Path) -> Path:
    """Return where the hash is kept of what we wrote into a resolv.conf file."""
    return path.with_name(path.name + ".hash")


@dataclass(frozen=True)
class _Text:
    """What a file should hold, and its record: what it holds now and what it should hold after."""

    path: str
    text: str
    record: Path
    ours: Sequence[str]
    after: Sequence[str]


def _holds(wanted: _Text) -> bool:
    path = Path(wanted.path)
    return path.exists() and read(path) == wanted.text


def _replace(wanted: _Text) -> bool:
    """Write a file and its record where they differ; tell whether the file did."""
    if _holds(wanted):
        if wanted.ours != wanted.after:
            _write_record(wanted.record, wanted.after)
        return False
    wide = [*wanted.after, *(each for each in wanted.ours if each not in wanted.after)]
    if wanted.ours != wide:
        _write_record(wanted.record, wide)
    write_in_place(Path(wanted.path), wanted.text)
    if wide != wanted.after:
        _write_record(wanted.record, wanted.after)
    return True


def _write_record(record: Path, entries: Collection[str]) -> None:
    write_in_place(record, "".join(f"{entry}\n" for entry in entries))
