"""The reference shows what a real installation takes, replies and tells, and lists all that one has.

``CNM_WRITE_DOCS=1`` writes ``docs/examples.json`` from the run (`make reference`).
"""

import hashlib
import itertools
import json
import os
import re
import subprocess

import jsonschema
import pytest

from cnm.errors import BY_CODE
from cnm.messages import COMMANDS, EVENTS, UNPUBLISHED
from cnm.reference import EXAMPLES, ROOT, between_workers, every_command

PREDEFINED = ("none", "host", "bridge", "first")
DOCUMENT = json.loads((ROOT / "docs/asyncapi.json").read_text())
FREE = {"options", "labels", "sysctls", "kernel", "workers", "aux_addresses", "domains"}
"""Maps whose keys are anybody's."""


def digest(what, number):
    return hashlib.sha256(f"{what} {number}".encode()).hexdigest()


class StandIns:
    """Writes what is different in each run as if it were not: ids, times, MAC addresses, paths."""

    PATTERNS = {
        "id": r"\b[0-9a-f]{64}\b",
        "time": r"\b\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|\+00:00)",
        "mac": r"\b[0-9a-f]{2}(:[0-9a-f]{2}){5}\b",
        "veth": r"\bveth[0-9a-f]{7}\b",
        "trace": r"\b[0-9a-f]{32}\b",
        "short": r"\b[0-9a-f]{12}\b",
        "pid": r'(?<="pid": )\d+',
    }

    def __init__(self, run_dir):
        self._run_dir = str(run_dir)
        self._known = {}
        self._numbers = {name: itertools.count(1) for name in self.PATTERNS}

    def write(self, value):
        text = json.dumps(value).replace(self._run_dir, "/run/cnm")
        pattern = "|".join(f"(?P<{name}>{each})" for name, each in self.PATTERNS.items())
        return json.loads(re.sub(pattern, self._stand_in, text))

    def _stand_in(self, found):
        text, kind = found[0], next(name for name in self.PATTERNS if found[name] is not None)
        if kind == "short":  # of an id that was shown before
            return next((new[:12] for old, new in self._known.items() if old.startswith(text)), text)
        if text not in self._known:
            number = next(self._numbers[kind])
            self._known[text] = {
                "id": lambda: digest("id", number),
                "time": lambda: "2026-11-27T10:00:00Z",
                "mac": lambda: f"02:42:5e:00:00:{number:02x}",
                "veth": lambda: f"veth{digest('veth', number)[:7]}",
                "trace": lambda: digest("trace", number)[:32],
                "pid": lambda: "4242",
            }[kind]()
        return self._known[text]


class Recorder:
    """Asks, and keeps the first request and reply of each verb, refusals by code, and events by kind."""

    def __init__(self, installation):
        self._installation = installation
        self._stand_ins = StandIns(installation.run_dir)
        self.said, self.told = [], []
        self.verbs, self.refusals, self.events = {}, {}, {}

    def ask(self, verb, **body):
        reply, _ = self._installation.ask(verb, body)
        assert "error" not in reply, f"{verb}: {reply}"
        self.said.append((f"cnm.v1.{verb}", body, reply))
        self.verbs.setdefault(f"cnm.v1.{verb}", self._stand_ins.write({"request": body, "reply": reply}))
        return reply

    def refused(self, verb, **body):
        reply, headers = self._installation.ask(verb, body)
        about = {"subject": f"cnm.v1.{verb}", "request": body, "headers": headers, "reply": reply}
        self.refusals[reply["error"]["code"]] = self._stand_ins.write(about)

    def hear(self, lines):
        for line in lines:
            event = json.loads(line)
            self.told.append(json.loads(line))
            kind = ".".join(event.pop("subject").split(".")[3:5])
            if event["object"].get("name") not in PREDEFINED:
                self.events.setdefault(kind, self._stand_ins.write(event))


@pytest.fixture(scope="module")
def run(prepared, tmp_path_factory):
    """A run of every verb of clients, and what was told meanwhile."""
    own = prepared(tmp_path_factory.mktemp("reference"))
    own.up()
    strange = subprocess.Popen(own.entering("unshare", "--net", "sleep", "60"))
    try:
        found = Recorder(own)
        services = services_of(own)
        own.ask("network.create", {"name": "first"})  # of which a warning tells what was set on this very node
        own.ask("network.delete", {"network": "first"})
        use(found, strange.pid)
        found.services = services
        found.hear(heard(own))
        yield found
    finally:
        strange.kill()
        strange.wait()
        own.cnm("down", "--all")
        own.close()


def services_of(own):
    """Return what each service tells of itself, as soon as all of a node are there."""
    names = ("controller", "ipam", "sandbox", "driver-bridge", "port-mapper", "resolver")
    return {name: own.ask(f"$SRV.INFO.{name}")[0] for name in (f"cnm-{each}" for each in names)}


def heard(own):
    with own.running("events", "--since", "1h", "-o", "json") as process:
        while True:
            line = process.stdout.readline()
            yield line
            if "network.deleted" in line and '"name": "old"' in line:
                return


def use(found, strange):
    ask = found.ask
    ask("system.info")
    ask("node.list")
    ask("node.get", node="n1")
    ask("node.dns", node="n1")
    web = ask(
        "network.create",
        name="web",
        ipam={"pools": [{"subnet": "172.28.0.0/16", "range": "172.28.5.0/24", "gateway": "172.28.5.254"}]},
        labels={"tier": "front"},
    )
    found.refused("network.create", name="web")
    found.refused("network.create", name="a b", ipam={"pools": [{"subnet": "172.28.1.0/16"}]}, colour="red")
    found.refused("network.get", network="intranet")
    found.refused("network.delete", network="bridge")
    found.refused("network.create", name="far", driver="overlay")
    api = ask(
        "sandbox.create", name="api", hostname="api", extra_hosts=[{"name": "db.local", "ip": "10.0.0.5"}],
        exposed_ports=["9090/tcp"], labels={"tier": "front"},
    )  # fmt: skip
    ask("sandbox.connect", sandbox="api", network="web", aliases=["backend"])
    ask("sandbox.publish", sandbox="api", ports=[{"container_port": 80, "host_port": 8080}])
    ask("network.get", network="web")
    ask("network.list", filters={"name": ["web"]})
    ask("network.drops", network="web")
    ask("network.update", network="web", labels={"tier": "back"}, revision=web["revision"])
    ask("sandbox.get", sandbox="api")
    ask("sandbox.list", filters={"label": ["tier=front"]}, limit=10)
    ask("sandbox.update", sandbox="api", hostname="api-1")
    ask("sandbox.stats", sandbox="api")
    ask("sandbox.create", name="client")
    ask("endpoint.create", network="web", name="client", ipv4_address="172.28.5.20")
    ask("endpoint.join", network="web", endpoint="client", sandbox="client")
    ask("endpoint.get", network="web", endpoint="client")
    ask("endpoint.list", network="web")
    ask("endpoint.update", network="web", endpoint="client", aliases=["tester"], ready=False)
    ask("endpoint.update", network="web", endpoint="client", ready=True)
    ask("system.explain", **{"from": "client", "to": "api", "port": 9090})
    ask("system.check", repair=False)
    ask("endpoint.leave", network="web", endpoint="client", sandbox="client")
    ask("endpoint.delete", network="web", endpoint="client")
    ask("sandbox.unpublish", sandbox="api", ports=[{"container_port": 80}])
    ask("sandbox.disconnect", sandbox="api", network="web")
    ask("sandbox.create", name="later", netns_later=True)
    ask("sandbox.adopt", sandbox="later", pid=strange)
    for name in ("later", "client", api["id"]):
        ask("sandbox.delete", sandbox=name)
    ask("ipam.space.list")
    pool = ask("ipam.pool.request", space="lab", pool="10.20.0.0/24", sub_pool="10.20.0.128/25")["pool_id"]
    ask("ipam.pool.get", pool_id=pool)
    ask("ipam.pool.list", space="lab")
    taken = ask("ipam.address.request", pool_id=pool, owner="router-1")["address"]
    ask("ipam.address.list", pool_id=pool)
    ask("ipam.address.release", pool_id=pool, address=taken.partition("/")[0])
    ask("ipam.pool.release", pool_id=pool)
    ask("network.prune")
    ask("network.create", name="old")
    ask("network.delete", network="old")


def check_alike(written, found, where):
    """Compare which keys there are and of which kind what they hold is, where both hold something."""
    if written is None or found is None:
        return
    assert type(written) is type(found), where
    if isinstance(written, dict) and where.rpartition(".")[2] not in FREE:
        assert written.keys() - {"warnings"} == found.keys() - {"warnings"}, where
        for key in written.keys() & found.keys():
            check_alike(written[key], found[key], f"{where}.{key}")
    if isinstance(written, list) and written and found:
        check_alike(written[0], found[0], where)


def part(name):
    """Return the schema of a message with all that it refers to."""
    return DOCUMENT["components"]["messages"][name]["payload"] | {"components": DOCUMENT["components"]}


def test_examples_are_what_a_run_gives(run):
    found = {"verbs": run.verbs, "refusals": run.refusals, "events": run.events}
    if os.environ.get("CNM_WRITE_DOCS"):
        EXAMPLES.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    written = json.loads(EXAMPLES.read_text())
    for group, each in found.items():
        assert written[group].keys() == each.keys()
        for name, example in each.items():
            check_alike(written[group][name], example, f"{name} (make reference writes it anew)")
    assert written["events"]["network.created"]["object"]["name"] == "web"


def test_every_verb_of_clients_was_used():
    shown = json.loads(EXAMPLES.read_text())["verbs"]
    assert {command.subject for _, command in every_command() if not between_workers(command)} - shown.keys() == {
        "cnm.v1.driver.announce"  # an IPAM driver tells of itself, see docs/ipam-drivers.md
    }


def test_what_was_said_fits_the_document(run):
    kinds = {command.subject: command for _, command in every_command()}
    for subject, request, reply in run.said:
        jsonschema.validate(request, part(kinds[subject].__name__))
        jsonschema.validate(reply, part(kinds[subject].reply_type().__name__))
    for refusal in run.refusals.values():
        jsonschema.validate(refusal["reply"], part("ErrorReply"))
        headers = DOCUMENT["components"]["messages"]["ErrorReply"]["headers"]
        jsonschema.validate(refusal["headers"], headers)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"name": 7}, part("CreateNetwork"))


def test_what_was_told_fits_the_document(run):
    for event in run.told:
        noun, participle = event["subject"].split(".")[3:5]
        assert participle in EVENTS[noun]
        assert f"{noun}.{participle}" not in UNPUBLISHED
        jsonschema.validate(event, part(f"{noun.capitalize()}Event"))
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(run.told[0] | {"object": {"name": 7}}, part("NetworkEvent"))


def test_services_answer_just_the_subjects_that_are_documented(run):
    for service, commands in COMMANDS.items():
        told = run.services[service]
        endpoints = {each["subject"]: each["metadata"] for each in told["endpoints"]}
        for command in commands:
            metadata = endpoints.pop(command.subject_on("n1"))
            written = ROOT / f"docs/schemas/{command.subject.replace('{node}', 'NODE')}.json"
            schemas = json.loads(written.read_text())
            assert json.loads(metadata["request_schema"]) == schemas["request"]
            assert json.loads(metadata["response_schema"]) == schemas["reply"]
        assert not endpoints, f"{service} answers what nothing tells of"


def test_document_names_all_that_the_contract_does():
    page = (ROOT / "docs/subjects.md").read_text()
    for code, kind in BY_CODE.items():
        assert f"| `{code}` | {kind.status} |" in page
    addresses = {channel["address"] for channel in DOCUMENT["channels"].values()}
    for noun, participles in EVENTS.items():
        for participle in participles:
            assert f"cnm.v1.event.{noun}.{participle}.{{id}}" in addresses
            assert f"`cnm.v1.event.{noun}.{participle}.<id>`" in page
