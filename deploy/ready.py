#!/usr/bin/env -S python3 -IS
"""Ask the worker of this container for /readyz; exit 0 only when it is ready, otherwise say what is amiss.

Run every few seconds beside each worker, so it imports next to nothing. In the image it is called ``cnm-ready``.
"""

import os
import socket
import sys

PATIENCE_S = 4.0


def main() -> str | None:
    """Return what is amiss, or None."""
    host, _, port = os.environ.get("CNM_METRICS_ADDRESS", "").rpartition(":")
    if not host:
        return "CNM_METRICS_ADDRESS is not set, so there is nobody to ask"
    try:
        with socket.create_connection((host.strip("[]"), int(port)), PATIENCE_S) as connection:
            connection.sendall(b"GET /readyz HTTP/1.0\r\n\r\n")
            reply = b"".join(iter(lambda: connection.recv(4096), b""))
    except (OSError, ValueError) as error:
        return f"{host}:{port} does not answer: {error}"
    head, _, body = reply.decode(errors="replace").partition("\r\n\r\n")
    return None if head.split()[1:2] == ["200"] else body.strip() or "no answer"


if __name__ == "__main__":
    sys.exit(main())
