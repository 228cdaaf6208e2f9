"""Every block of the pages for users is run as it stands there, and says what stands below it."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
BIN = Path(sys.executable).parent
PACKAGES = ROOT / "examples/javascript/node_modules"
STAND_IN = Path(__file__).parent / "examples/nats"
BLOCK = re.compile(r"```(python|js|sh)\n(.*?)```\n(?:\n```text\n(.*?)```\n)?", flags=re.DOTALL)


def blocks(page):
    text = (ROOT / page).read_text()
    for found in BLOCK.finditer(text):
        line = text[: found.start()].count("\n") + 2
        yield pytest.param(found[1], found[2], found[3], id=f"{page}:{line}")


def require(what, *, found):
    if not found:
        message = f"this block needs {what}"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)


@pytest.mark.parametrize(("language", "program", "expected"), [*blocks("docs/clients.md")])
def test_block_for_programs_runs_and_says_what_it_should(installation, tmp_path, language, program, expected):
    if language == "js":
        require("node and its packages: deploy/setup-examples", found=shutil.which("node") and PACKAGES.exists())
        (tmp_path / "node_modules").symlink_to(PACKAGES)
        (tmp_path / "program.mjs").write_text(program)
        words = ("node", str(tmp_path / "program.mjs"))
    elif language == "sh":
        require("jq", found=shutil.which("jq"))
        if shutil.which("nats") is None:
            (tmp_path / "nats").symlink_to(STAND_IN)
        words = ("bash", "-euo", "pipefail", "-c", program)
    else:
        words = (sys.executable, "-c", program)
    networks = installation.ask("network.list")[0]
    done = subprocess.run(
        installation.entering(*words), env=installation.env | {"PATH": f"{BIN}:{os.environ['PATH']}:{tmp_path}"},
        capture_output=True, text=True, timeout=50, check=False,
    )  # fmt: skip

    assert done.returncode == 0, done.stdout + done.stderr
    assert expected is not None, "a block is followed by what it prints"
    assert done.stdout == expected
    assert installation.ask("network.list")[0] == networks


@pytest.mark.timeout(180)  # some thirty commands, one after another
def test_every_command_for_operators_works(prepared, tmp_path, wait_until):
    own = prepared(tmp_path)
    commands = re.findall(r"^\$ (.*)$", (ROOT / "docs/operators.md").read_text(), flags=re.MULTILINE)
    assert len(commands) > 20
    namespaces = Path(f"{own.inside}{own.run_dir}/netns")
    try:
        for command in commands:
            done = subprocess.run(
                own.entering("sh", "-c", command), env=own.env | {"PATH": f"{BIN}:{os.environ['PATH']}"},
                cwd=tmp_path, capture_output=True, text=True, timeout=50, check=False,
            )  # fmt: skip
            assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
            if command == "cnm sandbox create mistake":
                assert len(list(namespaces.iterdir())) == 1
            if command == "! cnm sandbox inspect mistake":
                wait_until(lambda: not list(namespaces.iterdir()))
        assert own.cnm("status").returncode == 1
    finally:
        own.close()


ELSEWHERE = {"compose.md"}
"""Pages of other parts of the project, which may come after these."""


def test_index_of_the_pages_names_every_page_and_each_link_leads_somewhere():
    index = (ROOT / "docs/README.md").read_text()
    for page in (ROOT / "docs").glob("*.md"):
        assert page.name == "README.md" or f"]({page.name})" in index
    for page in (ROOT / "docs").glob("*.md"):
        text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
        for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
            assert link in ELSEWHERE or (page.parent / link).exists(), f"{page.name}: {link}"
