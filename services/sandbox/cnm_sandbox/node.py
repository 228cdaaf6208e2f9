"""The node's namespaces and the sandboxes' files, worked on in the netlink thread."""

import re
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

from cnm.kernel import netns
from cnm.kernel.thread import NetlinkThread
from cnm.messages.namespace import Gateway, NamespaceCounters, PortSight, SandboxSpec
from cnm.types import Protocol
from cnm_sandbox import namespace, netlink
from cnm_sandbox.config import Settings
from cnm_sandbox.files import SandboxFiles, glance
from cnm_sandbox.ports import Found

# what is not called like ours is not ours, wherever it lies
NAMESPACE_NAME = re.compile(r"[0-9a-f]{12}")
DIRECTORY_NAME = re.compile(r"[0-9a-f]{64}")


class LinuxNode:
    """`cnm_sandbox.ports.Node` on this machine: one job of the thread a method, so that none is half done."""

    repairs = True

    def __init__(
        self,
        thread: NetlinkThread,
        settings: Settings,
        know: Callable[[str, Path], None] = lambda _id, _folder: None,
    ) -> None:
        self._thread = thread
        self._settings = settings
        self._know = know
        self._files = SandboxFiles(settings)

    async def ensure(self, spec: SandboxSpec) -> Sequence[str]:
        """Make a sandbox's namespace and files stand; return what had to be done, as text."""
        return await self._thread.run(self._ensure, spec)

    def _ensure(self, spec: SandboxSpec) -> Sequence[str]:
        done: list[str] = []
        made = False
        path = Path(spec.namespace)
        if spec.namespace != namespace.HOST:
            if spec.pending:
                done.extend(netlink.abandon(path))
            else:
                if spec.adopted:
                    done.extend(netlink.adopt(spec, self._settings.namespaces))
                    made = bool(done)
                steps = namespace.plan(spec, netlink.observe(spec))
                try:
                    netlink.apply(path, steps)
                except BaseException:
                    if made:
                        netns.remove(path)
                    raise
                made = made or any(isinstance(step, namespace.MakeNamespace) for step in steps)
                done.extend(map(str, steps))
        try:
            done.extend(f"write {written}" for written in self._files.write(spec))
        except BaseException:
            if made:
                netns.remove(path)
            raise
        for folder in {Path(spec.hosts_path).parent, Path(spec.resolv_conf_path).parent}:
            self._know(spec.sandbox_id, folder)
        return done

    async def route(self, namespace: str, gateways: Sequence[Gateway], *, patient: bool = False) -> Sequence[str]:
        """Make the default routes exactly these; return what had to be done, as text."""
        return await self._thread.run(self._route, namespace, gateways, patient)

    @staticmethod
    def _route(key: str, gateways: Sequence[Gateway], patient: bool) -> Sequence[str]:
        if key == namespace.HOST:
            return ()  # the node routes by itself
        return [str(step) for step in netlink.route(Path(key), gateways, patient=patient)]

    async def remove(self, spec: SandboxSpec) -> None:
        """Remove a sandbox's files, and its namespace if we made it; what is gone is fine."""
        await self._thread.run(self._remove, spec)

    def _remove(self, spec: SandboxSpec) -> None:
        jobs: list[Callable[[], None]] = [partial(self._files.remove, spec)]
        ours = not spec.adopted or spec.source not in (None, spec.namespace)  # mounted by us, at least
        if spec.namespace != namespace.HOST and ours:
            jobs.append(partial(netns.remove, Path(spec.namespace)))
        _attempt(f"removing sandbox {spec.name}", jobs)

    async def glance(self, specs: Iterable[SandboxSpec]) -> Mapping[str, Hashable]:
        """Return, by sandbox, what can be seen of it without entering its namespace or reading its files."""
        return await self._thread.run(self._glance, specs)

    def _glance(self, specs: Iterable[SandboxSpec]) -> Mapping[str, Hashable]:
        followed = self._files.glance_origins()
        return {
            spec.sandbox_id: (
                followed,
                None if spec.namespace == namespace.HOST else glance(spec.namespace),
                glance(spec.hosts_path),
                glance(spec.resolv_conf_path),
            )
            for spec in specs
        }

    async def namespace_id(self, key: str) -> int | None:
        """Return the id by which notifications tell of a sandbox's namespace; None of the node's own."""
        return None if key == namespace.HOST else await self._thread.run(netlink.namespace_id, Path(key))

    async def count(self, key: str) -> NamespaceCounters:
        """Read the counters of a namespace's interfaces but the loopback, by name."""
        return await self._thread.run(netlink.count, Path(key))

    async def look(self, key: str, protocol: Protocol, port: int) -> PortSight:
        """Look who listens on a port of a namespace."""
        path = None if key == namespace.HOST else Path(key)
        return await self._thread.run(netlink.look, path, protocol, port)

    async def list_ours(self) -> Found:
        """Find what we left under the run directory."""
        return await self._thread.run(self._list_ours)

    def _list_ours(self) -> Found:
        return Found(
            namespaces=frozenset(map(str, _named(self._settings.namespaces, NAMESPACE_NAME))),
            directories=frozenset(path.name for path in _named(self._settings.directories, DIRECTORY_NAME)),
        )

    async def sweep(self, namespaces: Collection[str], directories: Collection[str]) -> None:
        """Remove namespaces by path and directories by sandbox id; all are tried, then errors are raised."""
        await self._thread.run(self._sweep, namespaces, directories)

    def _sweep(self, namespaces: Collection[str], directories: Collection[str]) -> None:
        jobs: list[Callable[[], None]] = [partial(netns.remove, Path(path)) for path in namespaces]
        jobs += [partial(self._files.remove_directory, sandbox_id) for sandbox_id in directories]
        _attempt("sweeping", jobs)


class Onlooker(LinuxNode):
    """The same node for a comparison that changes nothing: what would be done is told."""

    repairs = False

    def _ensure(self, spec: SandboxSpec) -> Sequence[str]:
        path = Path(spec.namespace)
        done: list[str] = []
        if spec.namespace != namespace.HOST:
            there = netns.is_namespace(path)
            if spec.pending:
                done.extend([f"umount {path}"] if there else [])
            elif spec.adopted and not there:
                done.append(f"mount --bind {spec.source or path} {path}")
            else:
                done.extend(map(str, namespace.plan(spec, netlink.observe(spec))))
        return [*done, *(f"write {path}" for path in self._files.compare(spec))]

    @staticmethod
    def _route(key: str, gateways: Sequence[Gateway], patient: bool) -> Sequence[str]:
        if key == namespace.HOST or not netns.is_namespace(Path(key)):
            return ()
        return [str(step) for step in netlink.route(Path(key), gateways, patient=patient, look_only=True)]

    async def sweep(self, namespaces: Collection[str], directories: Collection[str]) -> None:
        """Leave them."""


def _named(directory: Path, pattern: re.Pattern[str]) -> Iterable[Path]:
    try:
        return [path for path in directory.iterdir() if pattern.fullmatch(path.name)]
    except FileNotFoundError:
        return ()


def _attempt(what: str, jobs: Iterable[Callable[[], None]]) -> None:
    """Do all jobs, then raise the errors of those that failed."""
    errors: list[Exception] = []
    for job in jobs:
        try:
            job()
        except OSError as error:
            errors.append(error)
    if len(errors) == 1:
        raise errors[0]
    if errors:
        raise ExceptionGroup(what, errors)
