"""A host with the driver on it, a neighbour on its network, and traffic between namespaces."""

import asyncio
import hashlib
import ipaddress
import logging
import os
import socket
import struct
import threading
import time

import pytest
import structlog

from cnm.kernel import netns, sysctl
from cnm.kernel.rtnl import AddAddress, AddRoute, CreateVeth, Rtnl, SetLink
from cnm.messages.bridge import Attachment, BridgeNetwork, EnsureBridge, PlugEndpoint, RemoveBridge, UnplugEndpoint
from cnm.messages.node import BridgeSlice
from cnm_driver_bridge.driver import open_driver

HOST_V4, HOST_V6 = "192.0.2.1", "2001:db8:1::1"
LAN_V4, LAN_V6 = "192.0.2.9", "2001:db8:1::9"

structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))


class Running:
    """The driver, on a loop of its own in a thread that lives in the host's namespace."""

    def __init__(self, host, config=None):
        self._host, self._config = host, config
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._live)
        self._thread.start()
        assert self._ready.wait(10)

    def _live(self):
        with netns.inside(self._host):
            asyncio.run(self._serve())

    async def _serve(self):
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        async with open_driver(self._config) as self.driver:
            self._handlers = {route.command: route.handler for route in self.driver.routes()}
            self._ready.set()
            await self._stop.wait()

    def call(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(20)

    def send(self, command):
        return self.call(self._handlers[type(command)](command))

    def ensure(self, network, gone=()):
        return self.send(EnsureBridge(network=network, gone=list(gone)))

    def remove(self, network):
        return self.send(RemoveBridge(network=network))

    def plug(self, attachment):
        return self.send(PlugEndpoint(attachment=attachment)).host_ifname

    def unplug(self, attachment):
        return self.send(UnplugEndpoint(endpoint_id=attachment.endpoint_id))

    def asking(self):
        async def ask():
            self.driver.asking()

        self.call(ask())

    def converge(self, networks=(), attachments=(), busy=()):
        wanted = BridgeSlice(clock=1, networks=list(networks), attachments=list(attachments), busy=list(busy))
        return [str(each) for each in self.call(self.driver.converge(wanted))]

    def compare(self, networks=(), attachments=(), busy=()):
        wanted = BridgeSlice(clock=1, networks=list(networks), attachments=list(attachments), busy=list(busy))
        return self.call(self.driver.compare(wanted))

    def stop(self):
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(20)
        assert not self._thread.is_alive()


@pytest.fixture
def running(host):
    made = []

    def start(config=None):
        made.append(Running(host, config))
        return made[-1]

    yield start
    for each in made:
        if each._thread.is_alive():
            each.stop()


@pytest.fixture
def driver(running):
    return running()


def network_of(number, *, ipv6=True, **more):
    identity = hashlib.sha256(f"network {number}".encode()).hexdigest()
    v4, v6 = f"10.{number}.0", f"fd00:{number}::"
    fields = {
        "network_id": identity,
        "name": f"net{number}",
        "bridge": f"br-{identity[:12]}",
        "subnets": [ipaddress.ip_network(f"{v4}.0/24"), *([ipaddress.ip_network(f"{v6}/64")] if ipv6 else [])],
        "bridge_addresses": [
            ipaddress.ip_interface(f"{v4}.1/24"),
            *([ipaddress.ip_interface(f"{v6}1/64")] if ipv6 else []),
        ],
        "enable_ipv6": ipv6,
    }
    return BridgeNetwork(**{**fields, **more})


@pytest.fixture
def make_network():
    return network_of


@pytest.fixture
def make_attachment(namespace):
    """Make a sandbox's namespace and what a driver needs to plug an endpoint into it."""
    counter = iter(range(2, 200))

    def make(network, *, path=None, ifname="eth0", **more):
        last = next(counter)
        path = path or namespace(f"s{last}")
        sysctl.write("net/ipv6/conf/default/disable_ipv6", 1, path)
        gateways = [] if network.internal else [address.ip for address in network.bridge_addresses]
        fields = {
            "endpoint_id": hashlib.sha256(f"endpoint {path} {ifname}".encode()).hexdigest(),
            "sandbox_id": hashlib.sha256(str(path).encode()).hexdigest(),
            "network": network,
            "namespace": str(path),
            "ifname": ifname,
            "mac_address": f"02:42:AC:00:00:{last:02x}",
            "addresses": [ipaddress.ip_interface(f"{subnet[last]}/{subnet.prefixlen}") for subnet in network.subnets],
            "default_via": gateways,
        }
        return Attachment(**{**fields, **more})

    return make


@pytest.fixture
def lan(namespace, host):
    """A neighbour of the host, that routes the networks' subnets to it."""
    path = namespace("lan")
    v4, v6 = ipaddress.ip_interface, ipaddress.ip_interface
    with Rtnl.open(host) as near, Rtnl.open(path) as far:
        fd = os.open(path, os.O_RDONLY)
        (link,) = near.send(CreateVeth("wan0", peer_name="eth0", peer_namespace_fd=fd, up=False))
        os.close(fd)
        sysctl.write("net/ipv6/conf/wan0/accept_dad", 0, host)
        sysctl.write("net/ipv6/conf/eth0/accept_dad", 0, path)
        near.send(
            SetLink(1, up=True),
            SetLink(link.index, up=True),
            AddAddress(link.index, v4(f"{HOST_V4}/24")),
            AddAddress(link.index, v6(f"{HOST_V6}/64")),
        )
        far.send(
            SetLink(1, up=True),
            SetLink(link.peer, up=True),
            AddAddress(link.peer, v4(f"{LAN_V4}/24")),
            AddAddress(link.peer, v6(f"{LAN_V6}/64")),
            AddRoute(ipaddress.ip_network("10.0.0.0/8"), gateway=ipaddress.ip_address(HOST_V4)),
            AddRoute(ipaddress.ip_network("fd00::/16"), gateway=ipaddress.ip_address(HOST_V6)),
        )
    return path


class Traffic:
    """Connections and echoes between namespaces, by sockets that belong to them."""

    def __init__(self):
        self._open = []

    def listen(self, path, port=8080):
        """Listen in a namespace on every address of both families."""
        listener = netns.open_socket(path, socket.AF_INET6, socket.SOCK_STREAM)
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.bind(("::", port))
        listener.listen(16)
        listener.settimeout(5)
        self._open.append(listener)
        return listener

    def tcp(self, path, address, port=8080, *, patience_s=0.7):
        """Tell how an attempt to connect ends: open, refused, or no answer."""
        address = str(address)
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with netns.open_socket(path, family, socket.SOCK_STREAM) as connecting:
            connecting.settimeout(patience_s)
            try:
                connecting.connect((address, port))
            except ConnectionRefusedError:
                return "refused"
            except TimeoutError:
                return "no answer"
            except OSError as error:
                return f"no way: {error.strerror}"
            return "open"

    def seen_as(self, listener, path, address, port=8080):
        """Connect, and return the address that the listener sees."""
        assert self.tcp(path, address, port) == "open"
        accepted, peer = listener.accept()
        accepted.close()
        return peer[0].removeprefix("::ffff:")

    def ping(self, path, address, *, patience_s=0.7):
        """Tell how an echo request ends: reply, prohibited, or no answer."""
        address = str(address)
        six = ":" in address
        family, protocol = (socket.AF_INET6, 58) if six else (socket.AF_INET, 1)
        body = struct.pack("!HH", os.getpid() & 0xFFFF, 1) + b"cnm!"
        kind = 128 if six else 8
        total = sum(struct.unpack("!6H", struct.pack("!BBH", kind, 0, 0) + body))
        checksum = ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF
        with netns.open_socket(path, family, socket.SOCK_RAW, protocol) as raw:
            try:
                raw.sendto(struct.pack("!BBH", kind, 0, 0 if six else checksum) + body, (address, 0))
            except OSError as error:
                return f"no way: {error.strerror}"
            deadline = time.monotonic() + patience_s
            while (left := deadline - time.monotonic()) > 0:
                raw.settimeout(left)
                try:
                    packet = raw.recv(2048)
                except TimeoutError:
                    break
                kind, code = packet[:2] if six else packet[20:22]
                if (kind, code) == ((129, 0) if six else (0, 0)):
                    return "reply"
                if (kind, code) == ((1, 1) if six else (3, 13)):
                    return "prohibited"
        return "no answer"

    def close(self):
        for each in self._open:
            each.close()


@pytest.fixture
def traffic():
    made = Traffic()
    yield made
    made.close()


@pytest.fixture
def left_behind(shell, host):
    """Return what still stands on the host of networks: links, and what the rulesets hold of them."""

    def look(*networks):
        keys = [network.network_id[:12] for network in networks]
        links = [link["ifname"] for link in shell.ip(host, "link", "show") if link["ifname"] not in ("lo", "wan0")]
        ruleset = shell.run(host, "nft", "list", "ruleset")
        return links, [key for key in keys if key in ruleset]

    return look


def v4(attachment):
    return next(address.ip for address in attachment.addresses if address.version == 4)


def v6(attachment):
    return next(address.ip for address in attachment.addresses if address.version == 6)


@pytest.fixture
def ips():
    """Return the addresses of an attachment, IPv4 first."""
    return lambda attachment: (v4(attachment), v6(attachment))


@pytest.fixture
def snapshot(shell, host):
    """Return what must not change when nothing is to be changed: rules with their handles, links, addresses."""

    def take():
        rules = shell.run(host, "nft", "-a", "-s", "list", "ruleset")
        links = [(link["ifindex"], link["ifname"], link.get("master")) for link in shell.ip(host, "link", "show")]
        found = [
            (link["ifname"], each["local"]) for link in shell.ip(host, "addr", "show") for each in link["addr_info"]
        ]
        return rules, links, sorted(found)

    return take
