"""A resolver that ends leaves its sockets to the next one, and not one question is lost."""

import asyncio
import socket
from contextlib import asynccontextmanager
from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest
from dnslib import QTYPE, RCODE, RR, A, DNSRecord

from cnm.deposit import Depositor, open_deposit
from cnm.kernel import netns
from cnm.kernel.thread import NetlinkThread
from cnm_resolver.cache import Cache
from cnm_resolver.config import Limits
from cnm_resolver.directory import Directory
from cnm_resolver.forward import Forwarder
from cnm_resolver.listener import Listeners
from cnm_resolver.namespaces import KernelNamespaces
from cnm_resolver.upstream import SocketUpstream
from cnm_resolver.zone import Record, Settings

S1 = Settings(sandbox_id="s1", networks=("n-web",))


class Process:
    """A resolver as a process holds it: ``kill`` is what the kernel does for one that is killed."""

    def __init__(self, path, thread, tasks):
        self.directory = Directory()
        self.directory.put_network("n-web", "web", prefixes=(ip_network("172.28.0.0/16"),))
        self.directory.put_record(Record("e-api", "n-web", ("api",), ip_address("172.28.0.2")))
        self.depositor = Depositor(path, "resolver")
        self.namespaces = KernelNamespaces(thread, self.depositor)
        external = Cache(Forwarder(SocketUpstream(self.namespaces, lambda size: b"\7" * size)))
        self.listeners = Listeners(self.namespaces, external, tasks, limits=Limits(overall_s=2.0))

    async def open(self, namespace, settings=S1):
        view = self.directory.put_sandbox(settings)
        await self.listeners.open(settings.sandbox_id, namespace, view)

    def kill(self):
        self.listeners.close_all()
        self.depositor.close()


@pytest.fixture
async def deposit(tmp_path):
    with open_deposit(tmp_path / "d.sock") as made:
        yield made


@pytest.fixture
async def start(deposit, tmp_path):
    async with NetlinkThread() as thread, asyncio.TaskGroup() as tasks:
        started = []

        def make():
            started.append(Process(tmp_path / "d.sock", thread, tasks))
            return started[-1]

        yield make
        for each in started:
            each.kill()


@asynccontextmanager
async def asking(namespace, count, *, name="api"):
    """Send questions at once, and give what returns the answers."""
    loop = asyncio.get_running_loop()
    with netns.open_socket(namespace, socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.setblocking(False)
        client.connect(("127.0.0.11", 53))
        for _ in range(count):
            client.send(bytes(DNSRecord.question(name).pack()))

        async def answers():
            async with asyncio.timeout(5):
                return [DNSRecord.parse(await loop.sock_recv(client, 4096)) for _ in range(count)]

        yield answers


async def test_questions_wait_while_nobody_reads_and_the_next_process_answers_them(start, sandbox, query, deposit):
    first = start()
    await first.open(sandbox)
    assert (await query(sandbox, "api")).short() == "172.28.0.2"
    first.kill()
    loop, question = asyncio.get_running_loop(), bytes(DNSRecord.question("api").pack())
    with netns.open_socket(sandbox, socket.AF_INET, socket.SOCK_STREAM) as client:
        client.setblocking(False)
        async with asking(sandbox, 200) as answers:
            await loop.sock_connect(client, ("127.0.0.11", 53))
            client.send(len(question).to_bytes(2) + question)
            second = start()
            await second.open(sandbox)
            assert {found.short() for found in await answers()} == {"172.28.0.2"}
            assert DNSRecord.parse((await loop.sock_recv(client, 4096))[2:]).short() == "172.28.0.2"
    await second.listeners.close("s1")
    assert len(deposit) == 0
    with pytest.raises(OSError, match="refused"):
        await query(sandbox, "api")


async def test_two_at_once_answer_each_question_once_and_either_may_go(start, sandbox, query):
    old, new = start(), start()
    await old.open(sandbox)
    await new.open(sandbox)
    async with asking(sandbox, 100) as answers:
        assert len(await answers()) == 100
    old.kill()
    async with asking(sandbox, 100) as answers:
        assert len(await answers()) == 100
    assert (await query(sandbox, "api", tcp=True)).short() == "172.28.0.2"


async def test_what_was_read_is_answered_before_a_process_ends(start, sandbox, query, make_server):
    asked = asyncio.Event()

    def late(question):
        asked.set()
        found = question.reply()
        found.add_answer(RR(question.q.qname, QTYPE.A, rdata=A("198.51.100.7"), ttl=0))
        return [bytes(found.pack())]

    gate, mock = asyncio.Event(), await make_server(late)
    first = start()
    exchange = first.listeners._external._external._upstream.exchange

    async def slow(*args, **more):
        reply = await exchange(*args, **more)
        await gate.wait()
        return reply

    first.listeners._external._external._upstream.exchange = slow
    first.directory.set_node_servers((mock.server,))
    await first.open(sandbox)
    waiting = [asyncio.ensure_future(query(sandbox, "example.com", tcp=tcp)) for tcp in (False, True)]
    await asked.wait()
    draining = asyncio.ensure_future(first.listeners.drain())
    for _ in range(3):
        await asyncio.sleep(0)
    assert not draining.done(), "it waits for what it owes"
    gate.set()
    await draining
    first.kill()
    for each in waiting:
        assert (await each).header.rcode == RCODE.NOERROR


async def test_sockets_of_another_namespace_are_not_taken(start, sandbox, make_sandbox, query):
    first = start()
    await first.open(sandbox)
    first.kill()
    other = make_sandbox("other")
    second = start()
    await second.open(other)
    assert (await query(other, "api")).short() == "172.28.0.2"


async def test_moving_a_sandbox_leaves_the_new_sockets(start, sandbox, make_sandbox, query, deposit):
    other = make_sandbox("other")
    first = start()
    await first.open(sandbox)
    await first.open(other)
    first.kill()
    assert len(deposit) == 1
    async with asking(other, 10) as answers:
        await start().open(other)
        assert len(await answers()) == 10


@pytest.mark.parametrize("damage", ["flush ruleset", "flush chain ip cnm_dns output", "delete table ip cnm_dns"])
async def test_a_lost_redirect_is_mended(start, sandbox, query, shell, damage):
    first = start()
    await first.open(sandbox)
    assert not await first.listeners.mend("s1")
    shell.run(sandbox, "nft", damage)
    assert await first.listeners.mend("s1")
    assert (await query(sandbox, "api")).short() == "172.28.0.2"
    shell.run(sandbox, "nft", damage)
    first.kill()
    await start().open(sandbox)
    assert (await query(sandbox, "api")).short() == "172.28.0.2"


async def test_where_nobody_kept_the_sockets_the_next_process_binds_the_same_ports_and_changes_no_rule(
    start, sandbox, query, shell
):
    first = start()
    await first.open(sandbox)
    await first.namespaces.forget("s1")
    rules = shell.run(sandbox, "nft", "--handle", "list", "ruleset")
    assert "dnat to 127.0.0.11" in rules
    assert (await query(sandbox, "api", tcp=True)).short() == "172.28.0.2"
    first.kill()
    second = start()
    await second.open(sandbox)
    assert shell.run(sandbox, "nft", "--handle", "list", "ruleset") == rules
    for tcp in (False, True):
        assert (await query(sandbox, "api", tcp=tcp)).short() == "172.28.0.2"


async def test_where_somebody_took_the_ports_the_next_process_leads_elsewhere(start, sandbox, query):
    first = start()
    await first.open(sandbox)
    await first.namespaces.forget("s1")
    ports = await first.namespaces.redirected(sandbox)
    first.kill()
    with (
        netns.open_socket(sandbox, socket.AF_INET, socket.SOCK_DGRAM) as udp,
        netns.open_socket(sandbox, socket.AF_INET, socket.SOCK_STREAM) as tcp,
    ):
        udp.bind(("127.0.0.11", ports[0]))
        tcp.bind(("127.0.0.11", ports[1]))
        tcp.listen()
        second = start()
        await second.open(sandbox)
        assert not set(ports) & set(await second.namespaces.redirected(sandbox))
        for stream in (False, True):
            assert (await query(sandbox, "api", tcp=stream)).short() == "172.28.0.2"


async def test_what_is_left_of_sandboxes_that_are_gone_is_let_go(start, sandbox, make_sandbox, deposit):
    first = start()
    await first.open(sandbox)
    await first.open(make_sandbox("s2"), replace(S1, sandbox_id="s2"))
    first.kill()
    assert len(deposit) == 2
    second = start()
    await second.open(sandbox)
    await second.namespaces.forget_all_but(["s1"])
    assert len(deposit) == 1


async def test_a_namespace_that_was_made_anew_is_served_with_new_sockets(start, sandbox, query, shell, deposit):
    first = start()
    await first.open(sandbox)
    netns.remove(sandbox)
    assert not await first.listeners.is_led("s1")
    netns.create(sandbox)
    shell.run(sandbox, "ip", "link", "set", "lo", "up")
    assert not await first.listeners.is_led("s1")
    assert await first.listeners.mend("s1")
    assert (await query(sandbox, "api")).short() == "172.28.0.2"
    assert await first.listeners.is_led("s1")
    assert len(deposit) == 1
    first.kill()
    async with asking(sandbox, 10) as answers:
        await start().open(sandbox)
        assert len(await answers()) == 10
