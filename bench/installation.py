"""An installation of its own, in the present network namespace, for as long as a body runs."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Installation:
    """Where it is."""

    nats_url: str
    run_dir: Path
    process: int

    def worker(self, module: str) -> int:
        """Return the id of the process that runs ``cnm_<module>``."""
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with suppress(OSError):
                parent = int(path.with_name("stat").read_text().rpartition(")")[2].split()[1])
                if parent == self.process and f"cnm_{module}" in path.read_text():
                    return int(path.parent.name)
        raise RuntimeError(f"no process runs cnm_{module}")

    @property
    def redis_url(self) -> str:
        return f"unix://{self.run_dir}/redis.sock"


@contextmanager
def installation(*, traced: bool = False) -> Iterator[Installation]:
    """Start ``cnm up``, wait until all workers are ready, and stop it afterwards."""
    with tempfile.TemporaryDirectory(prefix="cnm-bench-") as folder:
        run_dir = Path(folder) / "run"
        environment = {
            **os.environ,
            "CNM_RUN_DIR": str(run_dir),
            "CNM_STATE_DIR": str(Path(folder) / "state"),
            "CNM_NODE": "bench",
            "CNM_LOG_LEVEL": "WARNING",
        } | ({"OTEL_TRACES_EXPORTER": "nats"} if traced else {})
        cnm = str(Path(sys.executable).parent / "cnm")
        process = subprocess.Popen(
            [cnm, "up", "--nats-port", "0"],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert process.stdout is not None
        try:
            for line in process.stdout:
                if line.startswith("ready"):
                    break
            else:
                raise RuntimeError("the installation did not become ready")
            url = json.loads((run_dir / "cnm.json").read_text())["nats_url"]
            yield Installation(nats_url=url, run_dir=run_dir, process=process.pid)
        finally:
            process.terminate()
            process.wait(timeout=30)
            process.stdout.close()
            for namespace in (run_dir / "netns").glob("*"):
                subprocess.run(["umount", str(namespace)], check=False, stderr=subprocess.DEVNULL)
