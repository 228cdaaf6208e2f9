"""Names that well-known ports go by in SRV questions: the ones of IANA's registry that are in common use."""

from collections.abc import Mapping

WELL_KNOWN: Mapping[str, Mapping[str, int]] = {
    "tcp": {
        "amqp": 5672,
        "amqps": 5671,
        "domain": 53,
        "ftp": 21,
        "git": 9418,
        "http": 80,
        "http-alt": 8080,
        "https": 443,
        "imap": 143,
        "imaps": 993,
        "kerberos": 88,
        "ldap": 389,
        "ldaps": 636,
        "mqtt": 1883,
        "ms-sql-s": 1433,
        "mysql": 3306,
        "nfs": 2049,
        "pop3": 110,
        "pop3s": 995,
        "postgresql": 5432,
        "redis": 6379,
        "rtsp": 554,
        "secure-mqtt": 8883,
        "sip": 5060,
        "sips": 5061,
        "smtp": 25,
        "ssh": 22,
        "submission": 587,
        "submissions": 465,
        "telnet": 23,
        "xmpp-client": 5222,
        "xmpp-server": 5269,
    },
    "udp": {
        "domain": 53,
        "https": 443,
        "kerberos": 88,
        "nfs": 2049,
        "ntp": 123,
        "rtsp": 554,
        "sip": 5060,
        "snmp": 161,
        "syslog": 514,
        "tftp": 69,
    },
    "sctp": {"sip": 5060, "sips": 5061},
}


def port_named(text: str, protocol: str) -> int | None:
    """Return the port that a text means, a number or a well-known name; None when it means none."""
    if text.isascii() and text.isdigit() and len(text) <= 5:
        return None if text.startswith("0") else int(text)
    return WELL_KNOWN.get(protocol, {}).get(text)
