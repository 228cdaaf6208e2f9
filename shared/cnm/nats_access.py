"""How NATS is told who we are, and how we know it: what a URL cannot carry stands in files that variables name.

A user and password, or a token, may stand in the URL itself (``nats://user:password@host``); ``tls://`` asks for TLS.
"""

import re
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cnm.errors import Invalid

CREDENTIALS, NKEY = "CNM_NATS_CREDS", "CNM_NATS_NKEY"
AUTHORITY, CERTIFICATE, KEY = "CNM_NATS_CA", "CNM_NATS_CERT", "CNM_NATS_KEY"
_SECRET = re.compile(r"//[^\s]*@")
_SECRET_OPTION = re.compile(r"(?<=[?&])([a-z_]*password)=[^&\s]*")


def access(environment: Mapping[str, str], servers: list[str]) -> dict[str, Any]:
    """Return what nats-py's ``connect`` is given besides the servers.

    ``CNM_NATS_CREDS`` is a file with a JWT and its seed, ``CNM_NATS_NKEY`` one with an nkey's seed, ``CNM_NATS_CA``
    the authorities that may have signed the server's certificate (the system's when it is unset), ``CNM_NATS_CERT``
    and ``CNM_NATS_KEY`` the certificate that we show.

    Raises:
        Invalid: a file cannot be read or is not what it should be, or a key has no certificate.
    """
    files = {name: _file(name, environment[name]) for name in _VARIABLES if environment.get(name)}
    if KEY in files and CERTIFICATE not in files:
        raise Invalid.at(KEY, environment[KEY], f"{KEY} is the key of {CERTIFICATE}, which is unset")
    found: dict[str, Any] = {}
    if CREDENTIALS in files:
        found["user_credentials"] = files[CREDENTIALS]
    if NKEY in files:
        found["nkeys_seed"] = files[NKEY]
    if {AUTHORITY, CERTIFICATE} & files.keys() or any(server.startswith("tls://") for server in servers):
        found["tls"] = _tls(files)
    return found


_VARIABLES = (CREDENTIALS, NKEY, AUTHORITY, CERTIFICATE, KEY)


def _file(variable: str, path: str) -> str:
    try:
        Path(path).read_bytes()
    except OSError as error:
        raise Invalid.at(variable, path, f"{path} cannot be read: {error.strerror}") from None
    return path


def _tls(files: Mapping[str, str]) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=files.get(AUTHORITY))
    except ssl.SSLError as error:
        path = files[AUTHORITY]
        raise Invalid.at(AUTHORITY, path, f"{path} holds no certificates: {error.reason}") from None
    if CERTIFICATE in files:
        try:
            context.load_cert_chain(files[CERTIFICATE], files.get(KEY))
        except ssl.SSLError as error:
            path = files[CERTIFICATE]
            reason = f"{path} is no certificate with its key: {error.reason}"
            raise Invalid.at(CERTIFICATE, path, reason) from None
    return context


def is_refusal(error: Exception) -> bool:
    """Tell whether a server, or we, did not accept who the other is: trying again would not help."""
    return isinstance(error, ssl.SSLError) or "Authorization Violation" in str(error)


def without_secrets(text: str) -> str:
    """Write a URL, or several with commas between them, as a message may show it."""
    shown = ",".join(_SECRET.sub("//", part) for part in text.split(","))
    return _SECRET_OPTION.sub(r"\1=...", shown)
