"""The error message when iptables refuses our null routes."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest

from tests.support.host import REPO

_PROGRAM = """
from xenbw.blocks.restore import write_chain
print([write_chain(version, {"192.0.2.7": "web1", "2001:db8::7": "web1"}) for version in (4, 6)])
"""


@pytest.mark.skipif(shutil.which("iptables-legacy-restore") is None, reason="needs the real iptables")
def test_the_real_iptables_error_is_reported_in_one_line() -> None:
    # A root that may not change the firewall, as in a sandbox that is too strict.
    argv = ["setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin", "--", sys.executable, "-c", _PROGRAM]
    done = subprocess.run(argv, cwd=REPO, capture_output=True, text=True, check=True)
    said = done.stdout.strip()
    assert said.count("unable to initialize table 'filter'") == 2, said
    assert "\\n" not in said
