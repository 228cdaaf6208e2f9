"""The image and the compose stack on a machine of the tests' own."""

import os
import shutil
from pathlib import Path

import pytest

from .machine import ROOT, machine

TOOLS = ("debootstrap", "nsenter", "unshare", "tar", "git")


@pytest.fixture(scope="session")
def host(tmp_path_factory):
    """Have a machine with Docker and all images; its two file systems are kept in .image."""
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if os.geteuid() != 0:
        missing.insert(0, "root")
    if missing:
        pytest.fail(f"the image's tests need {', '.join(missing)}")
    with machine(Path(os.environ.get("CNM_IMAGE_DIR") or ROOT / ".image"), tmp_path_factory.mktemp("share")) as made:
        yield made


@pytest.fixture(scope="session")
def stack(host):
    """The whole stack, up."""
    host.up()
    yield host
    host.down("--volumes")
