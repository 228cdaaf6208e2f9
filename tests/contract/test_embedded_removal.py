"""Does `cnm down --all` take away what is ours, and nothing else?"""

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = """
set -e
mkdir -p $1/run/netns
touch $1/run/netns/left
ip link add mine type bridge && ip link set dev mine alias cnm:0123
ip link add other type bridge && ip link set dev other alias somebody:0123
ip netns add cnm-test && mount --bind /run/netns/cnm-test $1/run/netns/left
nft add table inet cnm_ports
nft add table inet stranger
nft 'add table inet cnm_filter; add chain inet cnm_filter cnm-user; add rule inet cnm_filter cnm-user accept'
nft 'add table ip cnm_empty; add chain ip cnm_empty cnm-user'
CNM_RUN_DIR=$1/run CNM_STATE_DIR=$1/state $2 -c '
import os
from cnm_cli.removal import sweep
from cnm_cli.settings import from_environment
print([error.message for error in sweep(from_environment(os.environ))])'
ip -j link show
nft -j list tables
ls $1/run/netns
"""


def test_sweep_removes_ours_and_leaves_strangers_and_the_users_rules(tmp_path: Path) -> None:
    # A network namespace and a mount namespace of its own, with its own /run/netns.
    inside = ("unshare", "--net", "--mount", "sh", "-c", f"mount -t tmpfs none /run; {SCRIPT}", "sh")
    done = subprocess.run((*inside, str(tmp_path), sys.executable), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    failures, links, tables, *files = done.stdout.splitlines()
    assert failures == "[]"
    assert {link["ifname"] for link in json.loads(links)} - {"lo"} == {"other"}
    left = [entry["table"]["name"] for entry in json.loads(tables)["nftables"] if "table" in entry]
    assert sorted(left) == ["cnm_filter", "stranger"]
    assert files == []
