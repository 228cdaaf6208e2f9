"""Does the demonstration do what it says?"""

import os
import subprocess
import sys


def test_demo_succeeds_and_leaves_nothing():
    links = subprocess.run(("ip", "-j", "link"), capture_output=True, check=True).stdout
    done = subprocess.run(
        (sys.executable, "-P", "-m", "cnm_cli", "demo"), capture_output=True, text=True, timeout=55, check=False,
        env=os.environ,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    assert "FAILED" not in done.stdout
    assert done.stdout.endswith("Every step did what it should, and nothing is left.\n")
    assert subprocess.run(("ip", "-j", "link"), capture_output=True, check=True).stdout == links
