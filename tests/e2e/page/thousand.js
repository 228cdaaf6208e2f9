// Has the page hear of so many sandboxes, spread over so many networks.
([sandboxes, networks]) => {
  const id = (n) => n.toString(16).padStart(64, "0");
  const created = "2026-01-01T00:00:00Z";
  const changes = [];
  for (let n = 0; n < networks; n += 1) {
    const pools = [{ subnet: `10.${n}.0.0/16`, gateway: `10.${n}.0.1` }];
    changes.push(["network", id(n), {
      id: id(n), name: `net-${n}`, driver: "bridge", created, internal: false, config_only: false, enable_ipv6: false, revision: 1, pools,
    }]);
  }
  for (let n = 0; n < sandboxes; n += 1) {
    const [name, box, endpoint] = [`box-${n}`, id(10000 + n), id(20000 + n)];
    const address = `10.${n % networks}.0.${2 + Math.floor(n / networks)}/16`;
    changes.push(["sandbox", box, { id: box, name, node: "n1", created, revision: 1, ports: [] }]);
    changes.push(["endpoint", endpoint, {
      id: endpoint, name, network: id(n % networks), sandbox: box, node: "n1", ipv4_address: address, ipv6_address: null,
      mac_address: "02:00:00:00:00:01", ifname: "eth0", ready: true, dns_names: [name], revision: 1,
    }]);
  }
  cnm.change({ changes });
}
