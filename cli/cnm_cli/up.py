"""`cnm up`: the servers and workers of this node, supervised by one process."""

import argparse
import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cnm_cli.settings import Settings


def register(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verb to the command line."""
    parser = subparsers.add_parser(
        "up",
        help="start CNM on this node",
        description="Start the servers and workers of this node and keep them running. In the foreground one line "
        "beginning 'ready' tells when every worker answers; Ctrl-C stops them, and leaves sandboxes and traffic as "
        "they are.",
    )
    parser.add_argument("-d", "--detach", action="store_true", help="return once every worker is ready")
    parser.add_argument(
        "--nats-port", type=_port, default=4222, metavar="PORT", help="of the embedded server; 0 chooses a free one"
    )
    parser.add_argument(
        "--timeout", type=float, default=60.0, metavar="SECONDS", help="give up when not ready by then (default 60)"
    )
    # The background process of `--detach` tells its fate on this descriptor.
    parser.add_argument("--report-to", type=int, default=None, help=argparse.SUPPRESS)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the verb."""
    from cnm.errors import Forbidden
    from cnm_cli.settings import from_environment

    settings = from_environment(os.environ)
    if os.geteuid() != 0:
        raise Forbidden("cnm up needs root: it makes namespaces, interfaces and firewall rules")
    if args.report_to is not None:
        return _serve_in_background(args, settings)
    if args.detach:
        start_detached(settings, nats_port=args.nats_port, timeout_s=args.timeout)
        return 0
    return _serve_in_foreground(args, settings)


def start_detached(settings: "Settings", *, nats_port: int, timeout_s: float) -> None:
    """Start CNM as a process of its own, and return once it is ready.

    Raises:
        CnmError: it did not become ready, and everything is stopped again.
    """
    import subprocess

    import msgspec

    from cnm.errors import Unavailable
    from cnm_cli.child import end, identity_of

    settings.log_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    log_path = settings.log_dir / "cnm.log"
    reading, writing = os.pipe()
    with open(reading, "rb") as reports, log_path.open("ab") as log:  # noqa: PTH123  # a descriptor
        process = subprocess.Popen(
            (
                *(sys.executable, "-P", "-m", "cnm_cli", "up"),
                *(f"--nats-port={nats_port}", f"--timeout={timeout_s}", f"--report-to={writing}"),
            ),
            cwd="/",  # it must not keep a file system busy
            env={**os.environ, "CNM_RUN_DIR": str(settings.run_dir), "CNM_STATE_DIR": str(settings.state_dir)},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=(writing,),
            start_new_session=True,
        )
        os.close(writing)
        try:
            line = reports.readline()
        except KeyboardInterrupt:
            if identity := identity_of(process.pid):
                end(identity, patience_s=30)
            raise
    if not line:
        raise Unavailable(f"cnm ended with status {process.wait()} before it was ready, see {log_path}")
    report: dict[str, str] = msgspec.json.decode(line)
    if "error" in report:
        process.wait()
        raise Unavailable(report["error"])
    process.returncode = 0  # it outlives us on purpose; without this, Popen warns
    print(report["ready"])


def _serve_in_foreground(args: argparse.Namespace, settings: "Settings") -> int:
    import asyncio

    from cnm_cli.serving import serve

    def announce(line: str) -> None:
        print(line, flush=True)

    asyncio.run(
        serve(settings, nats_port=args.nats_port, timeout_s=args.timeout, announce=announce, to_terminal=True)
    )
    return 0


def _serve_in_background(args: argparse.Namespace, settings: "Settings") -> int:
    import asyncio

    import msgspec

    from cnm.errors import CnmError
    from cnm_cli.serving import serve

    report_to: int | None = args.report_to
    os.set_inheritable(args.report_to, False)

    def report(body: dict[str, Any]) -> None:
        nonlocal report_to
        if report_to is not None:
            with open(report_to, "wb") as pipe:  # noqa: PTH123  # a descriptor
                pipe.write(msgspec.json.encode(body) + b"\n")
            report_to = None

    def announce(line: str) -> None:
        report({"ready": line})

    try:
        asyncio.run(
            serve(settings, nats_port=args.nats_port, timeout_s=args.timeout, announce=announce, to_terminal=False)
        )
    except CnmError as error:
        report({"error": error.message})
        raise
    return 0


def _port(text: str) -> int:
    port = int(text)
    if not 0 <= port <= 65535:
        raise ValueError(text)
    return port
