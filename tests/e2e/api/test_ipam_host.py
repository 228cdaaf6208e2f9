"""What IPAM takes from the host, and keeps over a restart."""

import contextlib
import ipaddress
import shutil
import subprocess
from pathlib import Path


def unique_local(ask, name):
    """Return the /48 that an IPv6 network without a subnet is cut from."""
    made, _ = ask("network.create", {"name": name, "enable_ipv4": False, "enable_ipv6": True})
    subnet = ipaddress.ip_network(made["ipam"]["pools"][0]["subnet"])
    assert subnet.prefixlen == 64
    assert subnet.network_address.packed[0] == 0xFD
    return subnet.supernet(new_prefix=48)


# I20
def test_ipv6_prefix_follows_from_the_host_and_leases_stay(own_installation):
    ask = own_installation.ask
    prefix = unique_local(ask, "six")
    ask("network.create", {"name": "web", "ipam": {"pools": [{"subnet": "10.60.0.0/24"}]}})
    before, _ = ask("endpoint.create", {"network": "web", "name": "a"})
    pools, _ = ask("ipam.pool.list")
    own_installation.down()
    own_installation.up()
    own_installation.forget_connection()
    assert ask("ipam.pool.list")[0] == pools
    assert unique_local(ask, "six-again") == prefix
    after, _ = ask("endpoint.create", {"network": "web", "name": "b"})
    assert (before["ipv4_address"], after["ipv4_address"]) == ("10.60.0.2/24", "10.60.0.3/24")
    assert ask("system.check")[0]["differences"] == []
    own_installation.down()
    shutil.rmtree(own_installation.folder / "state")
    own_installation.up()
    own_installation.forget_connection()
    assert [pool for pool in ask("ipam.pool.list")[0]["pools"] if pool["owner"]] == []
    has_id = Path("/etc/machine-id").exists() and Path("/etc/machine-id").read_text().strip()
    assert (unique_local(ask, "anew") == prefix) is bool(has_id)


# I06
def test_no_pool_is_chosen_over_a_name_server_of_the_node(own_installation, wait_until):
    servers = [ipaddress.ip_address(each) for each in ("172.21.0.53", "192.168.77.1", "10.0.1.2")]
    file = own_installation.folder / "resolv.conf"
    file.write_text("".join(f"nameserver {server}\n" for server in servers))
    subprocess.run(own_installation.entering("mount", "--bind", str(file), "/etc/resolv.conf"), check=True)
    try:

        def chosen():
            found = []
            with contextlib.suppress(KeyError):
                while True:
                    found.append(own_installation.ask("ipam.pool.request", {"space": "LocalDefault"})[0]["pool_id"])
            found.append(own_installation.ask("ipam.pool.request", {"space": "GlobalDefault"})[0]["pool_id"])
            for pool_id in found:
                own_installation.ask("ipam.pool.release", {"pool_id": pool_id})
            pools = [ipaddress.ip_network(pool_id.split("/", 1)[1]) for pool_id in found]
            assert len(pools) > 25
            return not any(server in pool for server in servers for pool in pools)

        wait_until(chosen)
    finally:
        subprocess.run(own_installation.entering("umount", "/etc/resolv.conf"), check=True)


def test_configured_pools_replace_dockers_and_a_size_makes_thousands(installed_with):
    pools = "base=172.80.0.0/16,size=24;base=172.90.0.0/16,size=24"
    with installed_with(CNM_DEFAULT_ADDRESS_POOLS=pools, CNM_ADDRESS_REST_S="0") as own:
        found = [own.ask("ipam.pool.request", {"space": "LocalDefault"})[0]["pool"] for _ in range(257)]
        assert (found[0], found[255], found[256]) == ("172.80.0.0/24", "172.80.255.0/24", "172.90.0.0/24")
        network, _ = own.ask("network.create", {"name": "web"})
        assert network["ipam"]["pools"][0]["subnet"] == "172.90.1.0/24"
        for _ in range(2):  # nothing rests
            lease, _ = own.ask("ipam.address.request", {"pool_id": "LocalDefault/172.80.0.0/24"})
            assert lease["address"] == "172.80.0.1/24"
            own.ask("ipam.address.release", {"pool_id": "LocalDefault/172.80.0.0/24", "address": "172.80.0.1"})
