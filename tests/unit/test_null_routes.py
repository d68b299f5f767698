"""By which method addresses are null-routed, and what is written for it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from xenbw.allow import Exceptions
from xenbw.blocks import method, null_text, restore
from xenbw.errors import MeterError
from xenbw.nft.tables import Tables
from xenbw.rundir import overfile
from xenbw.runner import CommandError, Result

Choose = Callable[..., tuple[str, str]]


class Rules(Tables):
    """nft's rules of a kernel that has nf_tables, or not."""

    def __init__(self, why_not: str | None = None) -> None:
        super().__init__(lambda _: None)
        self._why_not = why_not

    def generation(self) -> tuple[int, int]:
        if self._why_not:
            raise MeterError(self._why_not)
        return 0, 0


def loads_nothing(argv: list[str], **_: object) -> Result:
    raise CommandError(f"{argv[0]}: command not found")


@pytest.fixture
def chosen(monkeypatch: pytest.MonkeyPatch) -> Choose:
    """Chooses on a host with legacy tables of these IP versions, with nf_tables unless there is a reason why not."""

    def choose(setting: str, *versions: int, nft: str | None = None, iptc: bool = True) -> tuple[str, str]:
        monkeypatch.setattr(method, "_has", lambda version: version in versions)
        monkeypatch.setitem(sys.modules, "iptc", object() if iptc else None)  # type: ignore[arg-type]
        return method.choose(setting, Rules(nft), loads_nothing)

    return choose


def test_auto_is_iptables_where_the_kernel_has_the_legacy_tables_of_both_families(chosen: Choose) -> None:
    assert chosen("auto", 4, 6) == ("iptables", "")
    assert chosen("auto", 4) == chosen("auto", 6) == chosen("auto") == ("nft", "")
    assert chosen("auto", 4, 6, iptc=False) == ("nft", "")


def test_a_method_that_cannot_be_used_is_replaced_by_the_other_and_the_reason_is_told(chosen: Choose) -> None:
    assert chosen("iptables", 4, 6) == ("iptables", "")
    used, why = chosen("iptables", 4)
    assert (used, "IPv6 (modprobe ip6table_filter)" in why) == ("nft", True)
    used, why = chosen("iptables", 4, 6, iptc=False)
    assert (used, "python3-iptables" in why) == ("nft", True)
    assert chosen("nft") == ("nft", "")
    assert chosen("nft", nft="no nf_tables") == (
        "iptables",
        'null_routes = "nft" cannot be used, and iptables is: no nf_tables',
    )


def test_python_iptables_comes_without_setuptools_and_without_a_warning() -> None:
    code = "import sys, xenbw.blocks.iptables; print('setuptools' in sys.modules)"
    # The venv has setuptools, whose distutils takes the place of Python's own.
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("False\n", "")


def test_a_table_is_there_once_its_module_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: set[str] = set()

    def modprobe(argv: list[str], **_: object) -> Result:
        loaded.add(argv[-1])
        return Result(0, b"", b"")

    monkeypatch.setattr(method, "_has", lambda version: {4: "iptable_filter", 6: "ip6table_filter"}[version] in loaded)
    monkeypatch.setitem(sys.modules, "iptc", object())  # type: ignore[arg-type]
    assert method.choose("auto", Rules(), modprobe) == ("iptables", "")


SAVED = """\
*filter
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:XENBW - [0:0]
-A INPUT -j XENBW
-A FORWARD -j XENBW
-A FORWARD -j XENBW
-A FORWARD -j THEIRS
-A XENBW -s 192.0.2.1/32 -m comment --comment "xenbw: -j XENBW" -j REJECT
COMMIT
"""


def test_the_chain_and_every_jump_to_it_are_removed_in_one_commit() -> None:
    assert restore.removal(SAVED.replace("xenbw: -j XENBW", "xenbw: web1")).decode().splitlines() == [
        "*filter",
        "-D INPUT -j XENBW",
        "-D FORWARD -j XENBW",
        "-D FORWARD -j XENBW",
        "-F XENBW",
        "-X XENBW",
        "COMMIT",
    ]
    assert restore.removal(SAVED.replace("XENBW", "THEIRS")) == b""


def test_a_chain_that_another_programs_rule_jumps_to_is_emptied() -> None:
    removal = restore.removal(SAVED + "-A THEIRS -i vif1.0 -g XENBW\n").decode()
    assert "-F XENBW" in removal
    assert "-X XENBW" not in removal


def test_the_comment_of_a_long_name_is_what_nft_accepts() -> None:
    assert null_text.note("x" * 200) == "xenbw: " + "x" * 120
    assert '"' not in null_text.note('a"b') + null_text.note("tab\tgrün")


def test_without_exceptions_all_that_differs_between_hosts_is_in_the_sets() -> None:
    one, two = (null_text.write(dict.fromkeys(ips, "web1"), Exceptions(), "drop") for ips in (["1.1.1.1"], ["1.1.1.2"]))
    rules = [[line for line in text.splitlines() if "element" not in line] for text in (one, two)]
    assert rules[0] == rules[1]
    assert null_text.write({}, Exceptions(), "drop") == null_text.remove()


@pytest.mark.parametrize("used", ["iptables", "nft"])
def test_the_hook_is_told_the_method(tmp_path: Path, used: str) -> None:
    path = str(tmp_path / "over")
    overfile.write(path, "/ledger", [], [], {}, method=used)
    over = overfile.read(path)
    assert over is not None
    assert over.method == used


def test_a_file_of_an_older_daemon_tells_no_method(tmp_path: Path) -> None:
    path = tmp_path / "over"
    path.write_text("ledger\t/ledger\nmeter\tnft\n")
    over = overfile.read(str(path))
    assert over is not None
    assert over.method == ""
