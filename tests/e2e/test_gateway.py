"""The live page in a real browser, over a real installation: what it shows is there, for everybody, and stays so."""

import json
import os
import re
import shutil
import signal
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect, sync_playwright

PAGE = "http://127.0.0.1:8780/"
CHROMIUM = "/usr/bin/chromium"
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
PATIENCE_MS = 15_000
SANDBOXES, NETWORKS = 1000, 50
expect.set_options(timeout=PATIENCE_MS)
SCRIPTS = Path(__file__).parent / "page"


def script(name):
    return (SCRIPTS / f"{name}.js").read_text()


class Browsed:
    """A browser in the installation's network, and what it asked for and complained of."""

    def __init__(self, installation, browser, artefacts):
        self.installation = installation
        self._browser = browser
        self._artefacts = artefacts
        self.asked, self.complaints = set(), []
        self._contexts = []

    def open(self, **options):
        """Open the page in a context of its own and wait until it is live."""
        context = self._browser.new_context(
            **{"viewport": {"width": 1280, "height": 860}, "bypass_csp": False} | options
        )
        self._contexts.append(context)
        context.set_default_timeout(PATIENCE_MS)
        page = context.new_page()
        page.on("request", lambda request: self.asked.add(re.match(r"\w+://[^/]*|data:", request.url)[0]))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on(
            "console", lambda said: self.complaints.append(said.text) if "Content Security" in said.text else None
        )
        page.goto(PAGE)
        self.until_live(page)
        return page

    def until_live(self, page):
        expect(page.get_by_role("status")).to_have_text("live")

    def ask(self, verb, **body):
        reply, _ = self.installation.ask(verb, body)
        assert "error" not in reply, reply
        return reply

    def keep(self, page, name):
        """Keep a picture of the page as an artefact of the test."""
        for folder in self._artefacts:
            page.screenshot(path=folder / f"{name}.png")
            assert (folder / f"{name}.png").stat().st_size > 10_000

    def close_pages(self):
        for context in self._contexts:
            context.close()
        self._contexts.clear()


@pytest.fixture(scope="module")
def browsed(prepared, tmp_path_factory):
    if shutil.which(CHROMIUM) is None:
        message = f"the live page is tested in Debian's chromium, and there is no {CHROMIUM}"
        pytest.fail(message) if os.environ.get("CI") else pytest.skip(message)
    folder = tmp_path_factory.mktemp("gateway")
    artefacts = [folder, *([Path(os.environ["CNM_ARTEFACTS"])] if os.environ.get("CNM_ARTEFACTS") else [])]
    for each in artefacts:
        each.mkdir(parents=True, exist_ok=True)
    made = prepared(folder, CNM_GATEWAY_ADDRESS="127.0.0.1:8780", OTEL_TRACES_EXPORTER="nats")
    start = folder / "chromium"
    start.write_text(f'#!/bin/sh\nexec nsenter --net={made.namespace} {CHROMIUM} "$@"\n')
    start.chmod(0o755)
    try:
        made.up()
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=start, args=FLAGS)
            yield Browsed(made, browser, artefacts)
            browser.close()
    finally:
        made.close()


@pytest.fixture
def site(browsed):
    """The browser, over an installation with two sandboxes on a network, one with a port."""
    browsed.ask("network.create", name="demo")
    browsed.ask("sandbox.create", name="web", ports=[{"container_port": 80, "host_port": 8080}])
    browsed.ask("sandbox.create", name="client")
    browsed.ask("sandbox.connect", network="demo", sandbox="web", aliases=["www"])
    browsed.ask("sandbox.connect", network="demo", sandbox="client")
    yield browsed
    browsed.close_pages()
    for name in ("web", "client"):
        browsed.ask("sandbox.delete", sandbox=name)
    browsed.ask("network.delete", network="demo")


def chip(page, name):
    return page.get_by_role("group", name="Network demo").get_by_role("button", name=re.compile(rf"^{name}\b"))


def test_objects_appear_and_go_without_a_reload(browsed):
    page = browsed.open()
    page.evaluate("window.loaded = true")
    network = page.get_by_role("group", name="Network demo")
    expect(network).to_have_count(0)
    browsed.ask("network.create", name="demo")
    expect(network).to_be_visible()
    browsed.ask("sandbox.create", name="web")
    browsed.ask("sandbox.create", name="client")
    loose = page.get_by_role("group", name="On no network")
    expect(loose.get_by_role("button", name="web", exact=True)).to_be_visible()
    for name in ("web", "client"):
        browsed.ask("sandbox.connect", network="demo", sandbox=name)
        expect(chip(page, name)).to_be_visible()
    expect(loose).to_have_count(0)
    browsed.ask("sandbox.publish", sandbox="web", ports=[{"container_port": 80, "host_port": 8080}])
    expect(chip(page, "web")).to_contain_text("8080→80")
    expect(page.get_by_label(re.compile("^Events, newest first"))).to_contain_text("web publishes 8080→80")
    browsed.keep(page, "live")
    told = json.loads(browsed.installation.sh(f"curl -s {PAGE}api/state"))
    drawn = page.evaluate(
        "({sequence: cnm.sequence, endpoints: [...cnm.endpoints.values()], networks: [...cnm.networks.values()]})"
    )
    assert [told[each] for each in drawn] == list(drawn.values())
    browsed.ask("sandbox.unpublish", sandbox="web", ports=[{"container_port": 80}])
    expect(chip(page, "web")).not_to_contain_text("8080")
    browsed.ask("sandbox.delete", sandbox="web")
    expect(chip(page, "web")).to_have_count(0)
    browsed.ask("sandbox.disconnect", sandbox="client", network="demo")
    expect(network).to_contain_text("Nobody is on it")
    browsed.ask("sandbox.delete", sandbox="client")
    browsed.ask("network.delete", network="demo")
    expect(network).to_have_count(0)
    expect(page.get_by_label(re.compile("^Events, newest first"))).to_contain_text("Network demo was deleted")
    assert page.evaluate("window.loaded"), "the page was loaded again"
    browsed.close_pages()


def test_an_object_is_shown_in_words_and_as_it_is(site):
    page = site.open()
    chip(page, "web").click()
    details = page.get_by_role("region", name="Endpoint web on demo")
    endpoint = site.ask("endpoint.get", network="demo", endpoint="web")
    expect(details).to_contain_text(endpoint["ipv4_address"])
    expect(details).to_contain_text("www")
    expect(details).to_contain_text("0.0.0.0:8080→80")
    details.get_by_text("As JSON").click()
    assert json.loads(details.locator("pre").inner_text()) == endpoint
    details.get_by_role("button", name="web").click()
    sandbox = page.get_by_role("region", name="Sandbox web")
    expect(sandbox).to_contain_text(site.ask("sandbox.get", sandbox="web")["key"])
    sandbox.get_by_role("button", name="demo").click()
    page.get_by_role("region", name="Endpoint web on demo").get_by_role("button", name="demo").click()
    expect(page.get_by_role("region", name="Network demo")).to_contain_text("3 in use")
    page.route("**/api/objects/**", lambda route: route.abort())
    chip(page, "client").click()
    expect(page.get_by_role("alert")).to_have_text("It cannot be shown: the gateway does not answer")


def test_an_attach_is_drawn_as_a_waterfall(site):
    page = site.open()
    attach = page.locator(".attach").filter(has_text="client on demo").first
    expect(attach).to_have_attribute("open", "")  # the newest one is
    for words in ("process sandbox.connect", "process ipam.endpoint.allocate", "process on.bridge.plug", "rtnetlink"):
        expect(attach.get_by_text(words).first).to_be_visible()
    plug = attach.locator("li").filter(has_text="rtnetlink").first
    plug.locator("summary").click()
    expect(plug.locator("pre")).to_contain_text("ip link")
    page.get_by_role("button", name=re.compile("Trace of: Network demo was created")).first.click()
    expect(page.locator(".attach").filter(has_text="network.create")).to_be_visible()
    site.keep(page, "attaches")


def test_everything_is_reached_by_keyboard_alone(site):
    page = site.open()

    def focused():
        return page.evaluate("document.activeElement.innerText || document.activeElement.id")

    page.keyboard.press("Tab")
    assert focused() == "Skip to the topology"
    page.keyboard.press("/")
    assert focused() == "find"
    page.keyboard.type("client")
    expect(chip(page, "web")).to_have_count(0)
    page.keyboard.press("Escape")
    expect(chip(page, "web")).to_be_visible()
    for _ in range(20):
        page.keyboard.press("Tab")
        if focused().startswith("web"):
            break
    page.keyboard.press("ArrowRight")
    assert focused().startswith("client")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Endpoint client on demo")).to_be_focused()
    page.keyboard.press("Escape")
    expect(chip(page, "client")).to_be_focused()
    page.keyboard.press("Home")
    assert focused().startswith("web")
    for _ in range(20):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == "events-list":
            break
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowRight")
    assert focused() == "trace"
    page.keyboard.press("Enter")
    expect(page.locator(".attach > summary:focus")).to_contain_text("sandbox.connect")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.closest('section').id") == "attaches"
    fold = page.get_by_role("button", name="demo", exact=True).first
    fold.press("Enter")
    expect(chip(page, "web")).to_have_count(0)
    expect(fold).to_be_focused()


def test_it_is_usable_on_a_phone(site):
    page = site.open(viewport={"width": 360, "height": 740}, is_mobile=True, has_touch=True)
    expect(page.locator(".attach").first).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.get_by_role("navigation").get_by_role("link", name="Attaches").tap()
    expect(page.get_by_role("heading", name="Last attaches")).to_be_in_viewport()
    page.get_by_role("navigation").get_by_role("link", name="Topology").tap()
    chip(page, "web").tap()
    expect(page.get_by_role("heading", name="Endpoint web on demo")).to_be_in_viewport()
    expect(page.get_by_role("region", name="Endpoint web on demo")).to_contain_text("www")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    small = page.evaluate(script("small"))
    assert small == []
    site.keep(page, "phone")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_and_everything_has_a_name(site, scheme):
    page = site.open(color_scheme=scheme, reduced_motion="reduce")
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", ground))) > 384) == (scheme == "light")
    chip(page, "web").click()
    page.get_by_text("As JSON").click()
    page.evaluate("cnm.health = {...cnm.health, why: 'the controller does not answer'}")
    node = {"name": "n2", "state": "down", "address": None, "workers": []}
    mark = {
        "id": "n1",
        "about": "n1",
        "differences": [{"worker": "w", "what": "rules", "value": "add rule", "repaired": False}],
    }
    told = [["node", "n2", node], ["drift", "n1", mark]]
    page.evaluate("(changes) => cnm.change({changes})", told)
    page.get_by_role("searchbox").fill("e")
    expect(page.get_by_role("button", name=re.compile("n2 is down"))).to_be_visible()
    expect(page.get_by_role("button", name=re.compile("n1 .* ⚠ drifted"))).to_be_visible()
    pale = [each for each in page.evaluate(script("contrast")) if each[0] < 4.5]
    assert pale == []
    if scheme == "light":  # names and roles are the same in the dark
        found = Axe().run(page).response["violations"]
        assert [(each["id"], [node["html"] for node in each["nodes"]][:3]) for each in found] == []
    site.keep(page, scheme)


def test_a_thousand_sandboxes_on_fifty_networks_are_found_and_folded(site):
    page = site.open()
    page.evaluate(script("thousand"), [SANDBOXES, NETWORKS])
    site.ask("sandbox.create", name="spare")  # what comes from the stream has all of it drawn
    try:
        expect(page.locator(".counts")).to_contain_text(f"{NETWORKS + 4}")
        groups = page.get_by_role("group", name=re.compile(r"^Network net-"))
        expect(groups).to_have_count(NETWORKS)
        expect(page.locator(".chip")).to_have_count(0)  # folded: a row of dots each
        site.keep(page, "thousand")
        page.get_by_role("searchbox").fill("10.7.0.3")
        expect(page.locator(".chip")).to_have_count(1)
        expect(page.locator(".chip")).to_contain_text("box-57")
        page.get_by_role("searchbox").fill("net-7")
        expect(page.locator(".chip")).to_have_count(SANDBOXES // NETWORKS)
        page.get_by_role("searchbox").fill("")
        page.get_by_role("button", name="Expand all").click()
        expect(page.locator(".chip")).to_have_count(SANDBOXES + 3)
        page.get_by_role("button", name="Collapse all").click()
        expect(page.locator(".chip")).to_have_count(0)
    finally:
        site.ask("sandbox.delete", sandbox="spare")


def test_damage_is_told(site):
    page = site.open()
    endpoint = site.ask("endpoint.get", network="demo", endpoint="web")
    site.installation.sh(f"ip link set {endpoint['driver_info']['host_ifname']} down")
    expect(page.get_by_label(re.compile("^Events, newest first"))).to_contain_text("was found to differ")
    expect(page.get_by_label(re.compile("^Events, newest first"))).to_contain_text("was repaired")


def test_it_says_that_it_is_stale_and_goes_on_by_itself(site, frozen, gone, wait_until):
    page = site.open()
    with frozen(site.installation.pid("nats")):
        expect(page.get_by_role("status")).to_contain_text("stale since")
        expect(page.locator("#trouble")).to_contain_text("NATS does not answer")
        expect(chip(page, "web")).to_be_visible()
    site.until_live(page)
    nats = site.installation.pid("nats")
    os.kill(nats, signal.SIGKILL)
    wait_until(lambda: gone(nats))
    wait_until(lambda: site.installation.cnm("network", "create", "anew").returncode == 0)
    expect(page.get_by_role("group", name="Network anew")).to_be_visible()
    wait_until(lambda: site.installation.cnm("network", "rm", "anew").returncode == 0)
    expect(page.get_by_role("group", name="Network anew")).to_have_count(0)
    site.until_live(page)
    gateway = site.installation.pid("cnm-gateway")
    with frozen(gateway):
        os.kill(gateway, signal.SIGKILL)
    expect(page.get_by_role("status")).to_contain_text("stale since")
    site.ask("sandbox.disconnect", network="demo", sandbox="web")
    site.until_live(page)
    expect(chip(page, "web")).to_have_count(0)


def test_nothing_is_loaded_from_elsewhere_and_nothing_is_complained_of(site):
    site.open()
    assert site.asked == {PAGE.rstrip("/")}
    assert site.complaints == []


def test_only_who_calls_it_by_its_name_is_answered(browsed):
    def status(*words):
        return browsed.installation.sh(f"curl -s -o /dev/null -w '%{{http_code}}' {' '.join(words)} {PAGE}api/state")

    assert status() == status("-H 'Host: localhost'") == "200"
    assert status("-H 'Host: evil.example'") == "403"
    assert status("-X POST") == "405"
