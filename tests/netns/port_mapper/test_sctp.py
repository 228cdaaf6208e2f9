"""SCTP ports: as those of TCP where the kernel has SCTP, and refused by name where it has not."""

import contextlib
import socket
import struct
import threading
from dataclasses import dataclass
from pathlib import Path

import pytest

from cnm.errors import Conflict, Exhausted, Unsupported
from cnm.kernel import netns

from .conftest import HOST, HOST6, HOST_TOO, LAN, LAN6
from .test_life import piece

SCTP = 132
UNORDERED = 1
SNDINFO, RCVINFO, INITMSG, RECVRCVINFO = 2, 3, 2, 32
PROBED = 12
"""How many control chunks each end sends before a test believes that every path was probed."""


def kernel_has_sctp():
    try:
        socket.socket(socket.AF_INET, socket.SOCK_STREAM, SCTP).close()
    except OSError:
        return False
    return True


HAS_SCTP = kernel_has_sctp()
with_sctp = pytest.mark.skipif(not HAS_SCTP, reason="this kernel has no SCTP (modprobe sctp)")


@dataclass
class Said:
    text: bytes
    stream: int = 0
    payload_protocol: int = 0
    unordered: bool = False


class Association:
    """One end of an association; a message is read and written whole."""

    def __init__(self, end):
        self.end = end
        end.setsockopt(SCTP, RECVRCVINFO, 1)

    def say(self, said):
        about = struct.pack("=HHIIi", said.stream, said.unordered * UNORDERED, said.payload_protocol, 0, 0)
        self.end.sendmsg([said.text], [(SCTP, SNDINFO, about)])

    def hear(self):
        text = bytearray()
        while True:
            part, notes, flags, _ = self.end.recvmsg(65536, 256)
            text += part
            if not part:
                return None
            if flags & socket.MSG_EOR:
                break
        raw = next(raw for level, kind, raw in notes if (level, kind) == (SCTP, RCVINFO))
        stream, _, order, payload_protocol = struct.unpack_from("=HHH2xI", raw)
        return Said(bytes(text), stream, payload_protocol, bool(order & UNORDERED))

    def ask(self, text="hello"):
        self.say(Said(text.encode()))
        return self.hear().text.decode()


def serve(box, port, family=socket.AF_INET6, address="::"):
    """Answer every message with the sandbox's name and who said it, on the same stream and in the same order."""
    listening = netns.open_socket(box.path, family, socket.SOCK_STREAM, SCTP)
    listening.setsockopt(SCTP, INITMSG, struct.pack("=HHHH", 100, 100, 0, 0))
    listening.bind((address, port))
    listening.listen(64)

    def answer(end, peer):
        with end, contextlib.suppress(OSError):
            association = Association(end)
            while (said := association.hear()) is not None:
                said.text = f"{box.name} {peer[0].removeprefix('::ffff:')} ".encode() + said.text
                association.say(said)

    def accept():
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=answer, args=listening.accept(), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    box._sockets.append(listening)
    box._threads.append(thread)


@contextlib.contextmanager
def associate(path, address, port, *, source=None, timeout=3.0):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with netns.open_socket(path, family, socket.SOCK_STREAM, SCTP) as end:
        end.settimeout(timeout)
        end.setsockopt(SCTP, INITMSG, struct.pack("=HHHH", 100, 100, 0, 0))
        if source:
            end.bind(source)
        end.connect((address, port))
        yield Association(end)


def ask(path, address, port, **more):
    with associate(path, address, port, **more) as association:
        return association.ask()


def refused(path, address, port, **more):
    with pytest.raises(OSError, match=r"refused|timed out"), associate(path, address, port, **more):
        pass


def request(host_port=3868, container_port=3868, **more):
    return {"container_port": container_port, "host_port": host_port, "protocol": "sctp", **more}


@pytest.mark.skipif(HAS_SCTP, reason="this kernel has SCTP")
def test_sctp_is_refused_where_the_kernel_lacks_it(mapper, c1, elements):
    other = {"container_port": 80, "host_port": 8080}
    for asked in (request(), request(0), request(36000, 3868, host_port_end=36010)):
        with pytest.raises(Unsupported, match=r"^port 3868/sctp cannot be published: this kernel has no sctp$"):
            mapper.publish(c1.command(other, asked))
        body = {"sandbox_id": c1.id, "label": "c1", "requests": [other, asked]}
        with pytest.raises(Unsupported, match="3868/sctp"):
            mapper.ask("check", body)
    assert elements() == []


@with_sctp
def test_lan_reaches_a_fixed_port_by_both_families(mapper, c1, lan, elements):
    serve(c1, 3868)
    refused(lan, HOST, 3900)
    ports = mapper.publish(c1.command(request(3900)))
    assert [(each["host_ip"], each["host_port"], each["protocol"]) for each in ports] == [
        ("0.0.0.0", 3900, "sctp"),
        ("::", 3900, "sctp"),
    ]
    assert sorted(element[0]["elem"]["val"]["concat"][0] for element in elements()) == ["sctp", "sctp"]
    assert ask(lan, HOST, 3900) == f"c1 {LAN} hello"
    assert ask(lan, HOST_TOO, 3900) == f"c1 {LAN} hello"
    assert ask(lan, HOST6, 3900) == f"c1 {LAN6} hello"


@with_sctp
def test_host_reaches_a_port_by_its_own_addresses_and_by_loopback(mapper, c1, host):
    serve(c1, 3868)
    mapper.publish(c1.command(request(3900)))
    for address in (HOST, HOST_TOO, "127.0.0.1", HOST6, "::1"):
        assert ask(host, address, 3900).endswith(" hello"), address


@with_sctp
def test_ipv6_clients_reach_a_sandbox_that_has_only_ipv4(mapper, c2, lan, host):
    serve(c2, 3868)
    mapper.publish(c2.command(request(3900)))
    for path, address in ((lan, HOST6), (host, "::1"), (host, HOST6)):
        assert ask(path, address, 3900) == "c2 172.28.0.1 hello"
    assert ask(lan, HOST, 3900) == f"c2 {LAN} hello"


@with_sctp
def test_ipv4_clients_reach_a_sandbox_that_has_only_ipv6(mapper, c3, lan):
    serve(c3, 3868)
    mapper.publish(c3.command(request(3900)))
    assert ask(lan, HOST, 3900) == "c3 fd28::1 hello"
    assert ask(lan, HOST6, 3900) == f"c3 {LAN6} hello"


@with_sctp
def test_sandbox_reaches_its_own_and_its_neighbours_published_port(mapper, c1, c2):
    serve(c1, 3868)
    mapper.publish(c1.command(request(3900)))
    assert ask(c1.path, HOST, 3900) == "c1 172.28.0.1 hello"
    assert ask(c2.path, HOST, 3900) == "c1 172.28.0.1 hello"


@with_sctp
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_proxy_keeps_messages_whole_with_their_stream_and_what_they_are(start, c2, host, loop):
    mapper = start(loop=loop)
    serve(c2, 3868)
    mapper.publish(c2.command(request()))
    with associate(host, "::1", 3868) as client:
        said = [
            Said(b"one"),
            Said(b"two", 7, 0x3C000000),
            Said(b"x" * 150_000, 99, 46),
            Said(b"three", 3, 0, unordered=True),
        ]
        for each in said:
            client.say(each)
            heard = client.hear()
            each.text = b"c2 172.28.0.1 " + each.text
            assert heard == each
        for _ in said:  # many at once stay as many
            client.say(Said(b"y" * 1000, 1))
        assert [len(client.hear().text) for _ in said] == [len(b"c2 172.28.0.1 ") + 1000] * len(said)


@with_sctp
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_proxy_aborts_a_client_when_the_sandbox_refuses_and_ends_one_that_ends(start, c2, host, wait_for, loop):
    mapper = start(loop=loop)
    mapper.publish(c2.command(request()))
    before = mapper.files()
    with associate(host, "::1", 3868) as client, pytest.raises(ConnectionResetError):
        client.hear()
    serve(c2, 3868)
    assert ask(host, "::1", 3868) == "c2 172.28.0.1 hello"
    wait_for(lambda: mapper.files() == before)


@with_sctp
def test_what_the_sandbox_says_before_it_ends_is_heard(mapper, c2, host, wait_for):
    with netns.open_socket(c2.path, socket.AF_INET, socket.SOCK_STREAM, SCTP) as listening:
        listening.bind(("0.0.0.0", 3868))
        listening.listen(1)
        mapper.publish(c2.command(request()))
        before = mapper.files()
        with associate(host, "::1", 3868) as client:
            client.say(Said(b"hello"))
            with listening.accept()[0] as server:
                assert server.recv(100) == b"hello"
                server.send(b"goodbye")
            assert client.hear().text == b"goodbye"
            assert client.hear() is None
        wait_for(lambda: mapper.files() == before)


@pytest.fixture
def eager(boxes, host, lan, shell):
    """Let every end probe its paths at once, and again and again."""
    for path in (host, lan, *(box.path for box in boxes)):
        for setting in ("rto_min=50", "rto_initial=50", "rto_max=500", "hb_interval=50"):
            shell.run(path, "sysctl", "-qw", f"net.sctp.{setting}")


@with_sctp
@pytest.mark.parametrize(
    ("place", "address", "sandbox"),
    [
        ("lan", HOST, 0),
        ("lan", HOST6, 0),
        ("lan", HOST, 1),
        ("lan", HOST6, 1),
        ("lan", HOST, 2),
        ("host", HOST, 0),
        ("host", HOST, 1),
        ("host", HOST6, 0),
        ("host", HOST6, 1),
        ("host", "127.0.0.1", 0),
        ("host", "127.0.0.1", 1),
        ("host", "::1", 0),
        ("host", "::1", 1),
    ],
)
def test_association_lives_on_while_all_its_paths_are_probed(
    eager, mapper, boxes, host, lan, shell, wait_for, place, address, sandbox
):
    box = boxes[sandbox]
    serve(box, 3868)
    mapper.publish(box.command(request(3900)))
    path = {"lan": lan, "host": host}[place]

    probe(shell, wait_for, path, address, box)


def probe(shell, wait_for, path, address, box):
    """Let an association live until every path was probed, and longer."""

    def sent(at):
        return int(shell.run(at, "grep", "SctpOutCtrlChunks", "/proc/net/sctp/snmp").split()[1])

    with associate(path, address, 3900) as client:
        assert client.ask().endswith("hello")
        marks = [(at, sent(at) + PROBED) for at in (path, box.path)]
        wait_for(lambda: all(sent(at) >= mark for at, mark in marks))
        assert client.ask("still there").endswith("still there")


@with_sctp
def test_range_and_automatic_ports_carry_traffic(mapper, c1, c2, lan):
    for port in (3868, 3869, 3870):
        serve(c1, port)
    ports = mapper.publish(
        c1.command(request(3900, 3868, container_port_end=3870, host_port_end=3910), request(0, 3868))
    )
    assert [(each["host_port"], each.get("host_port_end")) for each in ports[::2]] == [
        (3900, 3902),
        (ports[2]["host_port"], None),
    ]
    for port in (3900, 3901, 3902, ports[2]["host_port"]):
        assert ask(lan, HOST, port) == f"c1 {LAN} hello"
        assert ask(lan, HOST6, port) == f"c1 {LAN6} hello"
    refused(lan, HOST, 3903)
    with pytest.raises(Exhausted, match=r"no free host port in 3900-3902/sctp"):
        mapper.publish(c2.command(request(3900, 80, host_port_end=3902)))


@with_sctp
def test_only_the_sources_that_are_named_reach_a_port(mapper, c1, c2, host, lan):
    serve(c1, 3868)
    serve(c2, 3868)
    mapper.publish(c1.command(request(3900, allow=[f"{LAN}/32"]), request(3901, allow=["192.0.2.0/24"])))
    mapper.publish(c2.command(request(3902, allow=["::1/128"])))
    assert ask(lan, HOST, 3900) == f"c1 {LAN} hello"
    assert ask(host, "::1", 3902) == "c2 172.28.0.1 hello"
    for port in (3901, 3902):
        refused(lan, HOST, port, timeout=0.5)
        refused(lan, HOST6, port, timeout=0.5)


@with_sctp
@pytest.mark.parametrize("address", ["0.0.0.0", HOST, "::1"])
def test_conflict_names_the_other_process(mapper, c1, host, other_process, elements, address):
    holder = other_process(address, 3900, "sctp")
    command = Path(f"/proc/{holder.pid}/comm").read_text().strip()
    for verb in ("publish", "check"):
        body = c1.command(request(3900))
        if verb == "check":
            body = {name: body[name] for name in ("sandbox_id", "label", "requests")}
        with pytest.raises(Conflict) as refusal:
            mapper.ask(verb, body)
        # To SCTP 0.0.0.0 is every address of the IPv6 socket, too.
        assert refusal.value.message == f"host port 0.0.0.0:3900/sctp is taken by {command} (pid {holder.pid})"
    assert elements() == []
    mapper.publish(c1.command({"container_port": 80, "host_port": 3900}, request(3901)))
    holder.communicate()
    mapper.publish(c1.command(request(3900)))


@with_sctp
def test_published_port_cannot_be_bound_by_others_and_two_addresses_may_share_one(mapper, c1, c2, host, lan):
    serve(c1, 3868)
    serve(c2, 3868)
    mapper.publish(c1.command(request(3900, host_ip=HOST)))
    mapper.publish(c2.command(request(3900, host_ip=HOST_TOO), request(3901)))
    assert ask(lan, HOST, 3900) == f"c1 {LAN} hello"
    assert ask(lan, HOST_TOO, 3900) == f"c2 {LAN} hello"
    for address, port in ((HOST, 3900), ("0.0.0.0", 3900), ("127.0.0.1", 3901), ("::", 3901), ("::1", 3901)):
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        bound = netns.open_socket(host, family, socket.SOCK_STREAM, SCTP)
        with bound, pytest.raises(OSError, match="in use"):
            bound.bind((address, port))
    with pytest.raises(Conflict, match=r"0\.0\.0\.0:3901/sctp is taken by c2"):
        mapper.publish(c1.command(request(3901)))


@with_sctp
def test_unpublished_port_ends_its_associations_and_the_next_sandbox_gets_a_client_that_keeps_its_port(
    mapper, c1, c2, lan, host, elements
):
    serve(c1, 3868)
    serve(c2, 3868)
    before = mapper.files()
    mine = (LAN, 5555)
    mapper.publish(c1.command(request(3900)))
    with associate(lan, HOST, 3900, source=mine) as client, associate(host, "::1", 3900) as inner:
        assert client.ask().startswith("c1 ")
        assert inner.ask().startswith("c1 ")
        mapper.unpublish(c1)
        for end in (client, inner):
            with pytest.raises((ConnectionResetError, BrokenPipeError, AttributeError)):
                end.ask()
        refused(host, "::1", 3900)
        mapper.publish(c2.command(request(3900)))
    assert ask(lan, HOST, 3900, source=mine).startswith("c2 "), "the flow of before is forgotten"
    mapper.unpublish(c2)
    refused(lan, HOST, 3900)
    assert elements() == []
    assert mapper.files() == before


@with_sctp
def test_association_outlives_other_ports_changes_and_a_change_of_who_may_connect(mapper, c1, c2, lan):
    serve(c1, 3868)
    bound = mapper.publish(c1.command(request(3900)))
    with associate(lan, HOST, 3900) as client:
        assert client.ask() == f"c1 {LAN} hello"
        mapper.publish(c1.command(request(3901), bound=bound))
        mapper.publish(c2.command(request(3902)))
        mapper.unpublish(c2)
        mapper.publish(c1.command(request(3900, allow=["192.0.2.0/24"])))
        assert client.ask() == f"c1 {LAN} hello"
        refused(lan, HOST, 3900, timeout=0.5)


@with_sctp
def test_traffic_goes_on_while_no_process_runs_and_the_same_port_returns(start, c1, lan, host):
    serve(c1, 3868)
    first = start()
    bound = first.publish(c1.command(request(0, 3868)))
    port = bound[0]["host_port"]
    with associate(lan, HOST, port) as client:
        assert client.ask() == f"c1 {LAN} hello"
        first.kill()
        assert client.ask() == f"c1 {LAN} hello"
        assert ask(lan, HOST, port) == f"c1 {LAN} hello"
        second = start()
        done = second.ask("converge", piece([c1.command(bound=bound)]))
        assert done == {"closed": [], "published": [c1.id], "repaired": [], "problems": {}}
        assert client.ask() == f"c1 {LAN} hello"
    assert ask(host, "::1", port).startswith("c1 ")
