"""Every command and program on the README's first page is run as it stands there."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
README = ROOT / "README.md"
BIN = Path(sys.executable).parent


def blocks(language: str, page: Path = README) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(), flags=re.DOTALL)


def commands() -> list[str]:
    return [line[2:] for block in blocks("console") for line in block.splitlines() if line.startswith("$ ")]


def test_every_command_of_the_readme_works(stopped_installation):
    own = stopped_installation
    environment = own.env | {"PATH": f"{BIN}:{os.environ['PATH']}"}
    for command in commands():
        words = own.entering("sh", "-c", command)
        done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=50, check=False)

        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    assert own.cnm("status").returncode == 1, "the last command of the README stops the installation"


def test_the_readme_shows_the_life_of_an_installation():
    said = commands()

    assert said[0] == "cnm up --detach"
    assert said[-1] == "cnm down"
    assert len(said) > 10


@pytest.mark.parametrize("program", [*blocks("python"), *blocks("python", ROOT / "shared/README.md")])
def test_every_program_of_the_readme_works(own_installation, program: str):
    words = own_installation.entering(sys.executable, "-c", program)
    done = subprocess.run(words, env=own_installation.env, capture_output=True, text=True, timeout=50, check=False)

    assert done.returncode == 0, done.stderr
    assert '"error"' not in done.stdout
