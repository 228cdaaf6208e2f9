"""An installation of its own, in the present network namespace, for as long as a body runs."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

NODE = "bench"


class Installation:
    """Where it is; it may be stopped, and started again as it was."""

    def __init__(self, folder: Path, **settings: str) -> None:
        self.run_dir = folder / "run"
        self._environment = {
            **os.environ,
            "CNM_RUN_DIR": str(self.run_dir),
            "CNM_STATE_DIR": str(folder / "state"),
            "CNM_NODE": NODE,
            "CNM_LOG_LEVEL": "WARNING",
            **settings,
        }
        self._up: subprocess.Popen[str] | None = None

    def up(self) -> None:
        """Start it, and wait until all workers are ready."""
        cnm = str(Path(sys.executable).parent / "cnm")
        self._up = subprocess.Popen(
            [cnm, "up", "--nats-port", "0"],
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self._up.stdout is not None
        if not any(line.startswith("ready") for line in iter(self._up.stdout.readline, "")):
            raise RuntimeError("the installation did not become ready")

    def down(self) -> None:
        """Stop it; sandboxes stay."""
        if self._up is None:
            return
        self._up.terminate()
        self._up.wait(timeout=30)
        assert self._up.stdout is not None
        self._up.stdout.close()
        self._up = None

    @property
    def process(self) -> int:
        """The supervisor."""
        assert self._up is not None
        return self._up.pid

    @property
    def nats_url(self) -> str:
        return str(json.loads((self.run_dir / "cnm.json").read_text())["nats_url"])

    @property
    def redis_url(self) -> str:
        return f"unix://{self.run_dir}/redis.sock"

    def worker(self, module: str) -> int:
        """Return the id of the process that runs ``cnm_<module>``."""
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with suppress(OSError):
                parent = int(path.with_name("stat").read_text().rpartition(")")[2].split()[1])
                if parent == self.process and f"cnm_{module}" in path.read_text():
                    return int(path.parent.name)
        raise RuntimeError(f"no process runs cnm_{module}")


@contextmanager
def installation(*, traced: bool = False) -> Iterator[Installation]:
    """Start ``cnm up``, wait until all workers are ready, and stop it afterwards."""
    with tempfile.TemporaryDirectory(prefix="cnm-bench-") as folder:
        own = Installation(Path(folder), **({"OTEL_TRACES_EXPORTER": "nats"} if traced else {}))
        try:
            own.up()
            yield own
        finally:
            own.down()
            for namespace in (own.run_dir / "netns").glob("*"):
                subprocess.run(["umount", str(namespace)], check=False, stderr=subprocess.DEVNULL)
