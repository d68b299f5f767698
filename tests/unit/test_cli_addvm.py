from __future__ import annotations

import json
import os
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from tests.support.console import CAPTURES, Console, StandIn
from xenbw.ledger import eventlog
from xenbw.model import VM, Action, Count

WEB1 = """\
name = "web1"
vif = [ 'mac=00:16:3e:77:00:0b, bridge=xenbr0, ip=192.0.2.9 2001:db8::9/64, vifname=web1.eth0', '' ]
"""


pytestmark = pytest.mark.usefixtures("daemon")


@pytest.fixture
def console(tmp_path: Path) -> Console:
    made = Console(tmp_path)
    (made.xen / "web1.cfg").write_text(WEB1)
    return made


def test_a_running_vm_is_added_with_the_addresses_of_its_config_file(console: Console, daemon: StandIn) -> None:
    assert console.done("addvm", "web1", "--limit", "500GB") == (
        f"web1: running, config file {console.xen}/web1.cfg\n"
        "VIF  INTERFACE  MAC                IPS                    BRIDGE  FROM\n"
        "0    web1.eth0  00:16:3e:77:00:0b  192.0.2.9 2001:db8::9  xenbr0  config file\n"
        "1                                                                 config file\n"
        "web1: added, limit 500 GB, ips 192.0.2.9 2001:db8::9, "
        f"config file {console.xen}/web1.cfg\n"
    )
    vm = console.vm("web1")
    assert (vm.limit_bytes, vm.unlimited, vm.count, vm.reset_day) == (500 * 10**9, False, None, None)
    assert vm.ips == (ip_address("192.0.2.9"), ip_address("2001:db8::9"))
    assert vm.config_file == f"{console.xen}/web1.cfg"
    assert vm.added_at is not None
    assert daemon.asked == ["sync", "status"]


def test_every_option_ends_up_in_the_vm_s_row(console: Console) -> None:
    words = (
        "--limit 1.5TiB --count max --reset-day 31 --warn 90 --action warn --ip 192.0.2.9 192.0.2.20 --ip 2001:db8::20"
        " --allow 192.0.2.53 2001:db8:5::1/64"
    )
    console.done("addvm", "web1", *words.split())
    vm = console.vm("web1")
    assert vm == VM(
        id=vm.id,
        name="web1",
        found_at=vm.found_at,
        added_at=vm.added_at,
        limit_bytes=3 * 2**39,
        count=Count.MAX,
        warn_percent=90,
        action=Action.WARN,
        reset_day=31,
        allow=(ip_network("192.0.2.53/32"), ip_network("2001:db8:5::/64")),
        ips=tuple(map(ip_address, ("192.0.2.9", "192.0.2.20", "2001:db8::20", "2001:db8::9"))),
        config_file=f"{console.xen}/web1.cfg",
        period_start=vm.period_start,
        period_rule="31@UTC",
        state=vm.state,
        state_reason=vm.state_reason,
        state_since=vm.state_since,
    )


def test_a_list_that_is_given_in_parts_is_one_list(console: Console) -> None:
    console.config.write_text(console.config.read_text() + '[mail]\nto = ["root"]\n')
    parts = "--mail a@example.com --allow 192.0.2.53 --mail b@example.com c@example.com --allow 2001:db8:5::/64"
    console.done("addvm", "web1", "--limit", "500GB", *parts.split())
    vm = console.vm("web1")
    assert vm.mail == ("a@example.com", "b@example.com", "c@example.com")
    assert vm.allow == (ip_network("192.0.2.53/32"), ip_network("2001:db8:5::/64"))
    assert console.run("addvm", "web1", "--allow", "none", "--allow", "192.0.2.53").returncode == 2
    assert console.vm("web1").allow == vm.allow


def test_an_update_changes_only_what_was_given_and_says_what_changed(console: Console) -> None:
    console.done("addvm", "web1", "--limit", "500GB", "--reset-day", "15")
    before = console.vm("web1")
    (console.xen / "web1.cfg").unlink()
    said = console.done("addvm", "web1", "--limit", "1TB", "--count", "out").splitlines()
    assert said[-1] == "web1: limit 500 GB -> 1.00 TB, count total (default) -> out"
    after = console.vm("web1")
    assert (after.limit_bytes, after.count) == (10**12, Count.OUT)
    assert (after.reset_day, after.ips, after.config_file, after.added_at) == (
        15,
        before.ips,
        before.config_file,
        before.added_at,
    )


def test_an_update_with_nothing_given_changes_nothing(console: Console, daemon: StandIn) -> None:
    console.done("addvm", "web1", "--limit", "500GB")
    before, daemon.asked[:] = console.vm("web1"), []
    assert console.done("addvm", "web1").splitlines()[-1] == "web1: added already, and nothing was given to change"
    assert console.done("addvm", "web1", "--limit", "500").splitlines()[-1] == "web1: nothing changed"
    assert console.vm("web1") == before


def test_unlimited_takes_the_limit_away(console: Console) -> None:
    console.done("addvm", "web1", "--limit", "500GB")
    said = console.done("addvm", "web1", "--limit", "unlimited")
    assert said.splitlines()[-1] == "web1: limit 500 GB -> unlimited"
    assert (console.vm("web1").limit_bytes, console.vm("web1").unlimited) == (None, True)


def test_allow_takes_a_list_of_networks_none_or_default(console: Console) -> None:
    console.done("addvm", "web1", "--limit", "500GB")
    for words, was, now in (
        ("192.0.2.53", "as configured (default)", "192.0.2.53/32"),
        ("none", "192.0.2.53/32", "nothing"),
        ("default", "nothing", "as configured (default)"),
    ):
        said = console.done("addvm", "web1", "--allow", words).splitlines()
        assert said[-1] == f"web1: allow {was} -> {now}"
    console.done("addvm", "web1", "--allow", "none")
    assert console.done("show", "web1").count("allowed while blocked  nothing\n") == 1
    assert json.loads(console.done("show", "web1", "--json"))["allow"] == []


@pytest.mark.parametrize(
    "words",
    ["192.0.2.300", "0.0.0.0/0", "resolver.example.org", "none 192.0.2.53", "::/0", "fe80::1%eth0", "fe80::%;/64"],
)
def test_an_allow_that_is_not_a_list_of_networks_is_refused_and_changes_nothing(console: Console, words: str) -> None:
    console.done("addvm", "web1", "--limit", "500GB", "--allow", "192.0.2.53")
    refused = console.run("addvm", "web1", "--allow", *words.split())
    assert refused.returncode == 2
    assert refused.stderr.startswith(f"xenbw: not addresses and networks: {words!r} (")
    assert console.vm("web1").allow == (ip_network("192.0.2.53/32"),)


def test_a_vm_found_running_before_keeps_its_row_when_it_is_added(console: Console) -> None:
    console.runs("web1", ips="192.0.2.77")
    console.uses("web1", 1000, 2000)
    found = console.vm("web1")
    said = console.done("addvm", "web1", "--limit", "500GB")
    assert "0    vif7.0     00:16:3e:77:00:0b  192.0.2.77             xenbr0  running\n" in said
    assert console.vm("web1").id == found.id
    assert '"used_bytes": 3000' in console.done("list", "--json")


def test_a_name_that_is_neither_running_nor_configured_is_refused_with_near_names(console: Console) -> None:
    result = console.run("addvm", "wbe1", "--limit", "1")
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == (
        f"xenbw: no VM named 'wbe1' is running or has a config file in {console.xen} (did you mean web1?)\n"
    )
    assert not console.ledger_path.exists()


def test_force_adds_a_vm_that_is_not_there_yet(console: Console) -> None:
    result = console.run("addvm", "next-week", "--limit", "1", "--force")
    assert result.returncode == 0
    assert "next-week: not running, no config file found\n" in result.stdout
    assert "none of its addresses is known, so a block has nothing to null-route" in result.stderr
    assert console.vm("next-week").added_at is not None


def test_a_vm_that_does_not_run_is_found_by_the_name_inside_its_config_file(console: Console) -> None:
    (console.xen / "customer7").write_text('name = "shop"\nvif = [ "ip=192.0.2.7" ]\n')
    said = console.done("addvm", "shop", "--limit", "1")
    assert said.startswith(f"shop: not running, config file {console.xen}/customer7\n")
    assert console.vm("shop").ips == (ip_address("192.0.2.7"),)


def test_a_config_file_elsewhere_can_be_named(console: Console, tmp_path: Path) -> None:
    elsewhere = tmp_path / "ren.vm"
    elsewhere.write_text('vif = [ "ip=192.0.2.30" ]\n')
    console.done("addvm", "ren", "--limit", "1", "--config-file", str(elsewhere))
    assert (console.vm("ren").config_file, console.vm("ren").ips) == (str(elsewhere), (ip_address("192.0.2.30"),))


def test_another_vm_s_config_file_is_refused(console: Console) -> None:
    result = console.run("addvm", "ren", "--limit", "1", "--config-file", str(console.xen / "web1.cfg"))
    assert result.returncode == 1
    assert result.stderr == (
        f"xenbw: {console.xen}/web1.cfg is the config file of 'web1' (--force uses it for this VM)\n"
    )


@pytest.mark.parametrize("body", ["exit 3\n", "echo nonsense\n"], ids=["fails", "prints nonsense"])
def test_when_xl_fails_addvm_needs_a_config_file_or_force(console: Console, body: str) -> None:
    console.script("xl", body)
    assert "web1: not known to run, config file" in console.done("addvm", "web1", "--limit", "1")
    result = console.run("addvm", "ren", "--limit", "1")
    assert result.returncode == 1
    assert result.stderr.startswith("xenbw: cannot tell whether 'ren' is a VM: ")
    assert result.stderr.endswith("--force adds it unchecked)\n")
    assert console.run("addvm", "ren", "--limit", "1", "--force").returncode == 0


def test_a_migrating_vm_is_added_by_its_own_name_once(console: Console, tmp_path: Path) -> None:
    listed = tmp_path / "listed"
    head, web1 = (CAPTURES / "01-one-guest-before-traffic/xl-list.txt").read_text().splitlines()[::2]
    twin = web1.replace("web1          ", "web1--incoming").replace("     1   128", "     2   128")
    listed.write_text("\n".join((head, web1, twin)) + "\n")
    console.lists(listed)
    assert console.done("addvm", "--all", "--limit", "5").count("web1: added") == 1
    assert console.run("addvm", "web1--incoming", "--limit", "6").stdout.endswith("web1: limit 5.00 GB -> 6.00 GB\n")
    with console.ledger() as ledger:
        assert [vm.name for vm in ledger.vms().values()] == ["web1"]


def test_all_adds_every_running_vm_that_is_not_added_yet(console: Console) -> None:
    console.done("addvm", "web1", "--limit", "500GB")
    result = console.run("addvm", "--all", "--limit", "50GB")
    assert result.returncode == 0
    assert [line for line in result.stdout.splitlines() if ": added" in line] == [
        "customer-42.example.org_web+db: added, limit 50.0 GB",
        "ren: added, limit 50.0 GB",
        "sp ace:col: added, limit 50.0 GB",
    ]
    assert console.vm("web1").limit_bytes == 500 * 10**9
    assert console.done("addvm", "--all", "--limit", "50GB") == "every running VM is added already\n"


def test_all_is_refused_when_xl_fails(console: Console) -> None:
    console.script("xl", "exit 3\n")
    result = console.run("addvm", "--all", "--limit", "1", "--force")
    assert (result.returncode, result.stderr) == (
        1,
        "xenbw: xl list failed with exit status 3 (run 'xl list' as root to see why)\n",
    )


@pytest.mark.parametrize("words", [["ren"], ["--all"]])
def test_off_a_terminal_a_new_vm_needs_a_limit(console: Console, words: list[str]) -> None:
    result = console.run("addvm", *words)
    assert result.returncode == 2
    assert "no limit was given (--limit 500GB" in result.stderr
    assert not console.ledger_path.exists()


def test_off_a_terminal_a_new_vm_follows_the_default_limit(console: Console) -> None:
    text = console.config.read_text()
    console.config.write_text(text + '[default]\nlimit = "300GB"\n')
    assert "web1: added, limit 300 GB (default), ips" in console.done("addvm", "web1")
    console.config.write_text(text + '[default]\nlimit = "400GB"\n')
    assert '"limit_bytes": 400000000000' in console.done("show", "web1", "--json")


def test_addresses_in_a_config_file_that_no_vm_can_have_are_ignored(console: Console) -> None:
    console.config.write_text(console.config.read_text() + '[enforce]\nprotect = ["198.51.100.0/24"]\n')
    (console.xen / "web1.cfg").write_text("vif = ['ip=127.0.0.1 198.51.100.7 192.0.2.9']\n")
    result = console.run("addvm", "web1", "--limit", "1")
    assert result.stderr.splitlines() == [
        "note: web1: 127.0.0.1 in its config file cannot be a VM's address and was ignored",
        "note: web1: 198.51.100.7 in its config file cannot be a VM's address and was ignored",
    ]
    assert console.vm("web1").ips == (ip_address("192.0.2.9"),)


def test_an_address_of_another_vm_is_pointed_out(console: Console) -> None:
    console.done("addvm", "web1", "--limit", "1")
    result = console.run("addvm", "ren", "--limit", "1", "--ip", "192.0.2.9")
    assert (result.returncode, result.stderr) == (0, "note: ren: 192.0.2.9 is also an address of web1\n")


def test_an_address_that_this_host_needs_is_accepted_with_a_warning(console: Console) -> None:
    console.script("ip", """[ "$*" = "-json route" ] && echo '[{"gateway": "192.0.2.1"}]'\nexit 0\n""")
    result = console.run("addvm", "ren", "--limit", "1", "--ip", "192.0.2.1")
    assert (result.returncode, result.stderr) == (
        0,
        "note: ren: this host itself needs 192.0.2.1, so it is never blocked\n",
    )


def test_addvm_prints_the_problems_of_the_config_file(console: Console) -> None:
    (console.xen / "web1.cfg").write_text("vif = ['ip=192.0.2.9 host7']\n")
    result = console.run("addvm", "web1", "--limit", "1")
    assert result.stderr == f"note: {console.xen}/web1.cfg: vif 0: 'host7' in ip= is not an IP address\n"


def test_a_folder_of_config_files_that_xen_does_not_make_is_not_missed_unless_it_is_configured(
    console: Console,
) -> None:
    text, stock = console.config.read_text(), '"/etc/xen", "/etc/xen/auto"'
    console.config.write_text(text.replace(f'"{console.xen}"', stock))
    assert "No such file" not in console.run("addvm", "ren", "--limit", "1").stderr
    console.config.write_text(text.replace(str(console.xen), f"{console.root}/missing"))
    assert f"{console.root}/missing: No such file" in console.run("addvm", "web1", "--limit", "1").stderr


def test_a_hostile_name_cannot_move_the_cursor(console: Console) -> None:
    (console.xen / "evil").write_bytes(b'name = "a\x1b[2Jb"\n')
    result = console.run("addvm", "a\x1b[2Jb", "--limit", "1")
    assert result.returncode == 0
    assert "\x1b" not in result.stdout + result.stderr
    assert r"a\x1b[2Jb: added, limit 1.00 GB" in result.stdout
    assert console.vm("a\x1b[2Jb").added_at is not None


def test_a_change_is_an_event(console: Console) -> None:
    console.done("addvm", "web1", "--limit", "500GB")
    console.done("addvm", "web1", "--limit", "1TB")
    with console.ledger() as ledger:
        ((_, kind, text),) = eventlog.newest(ledger, 1)
    assert (kind, text) == ("changed", "web1: limit 500 GB -> 1.00 TB")


@pytest.mark.parametrize("words", [["web1"], ["--all"]])
def test_a_config_file_whose_name_is_not_utf_8_is_shown_as_bytes(console: Console, words: list[str]) -> None:
    (console.xen / "web1.cfg").rename(console.xen / os.fsdecode(b"caf\xe9.cfg"))
    assert console.run("addvm", *words, "--limit", "500GB").returncode == 0
    assert console.vm("web1").config_file == rf"{console.xen}/caf\xe9.cfg"
    assert rf"{console.xen}/caf\xe9.cfg" in console.done("show", "web1")


def test_config_file_chooses_between_two_files_that_differ(console: Console) -> None:
    for number in (70, 77):
        (console.xen / f"customer{number}.cfg").write_text(f"name='shop'\nvif=['ip=192.0.2.{number}']\n")
    result = console.run("addvm", "shop", "--limit", "1")
    assert result.returncode == 1
    assert (
        f"{console.xen}/customer70.cfg, {console.xen}/customer77.cfg all say name = 'shop', and differ" in result.stderr
    )
    assert "--config-file FILE" in result.stderr
    result = console.run("addvm", "shop", "--limit", "1", "--config-file", str(console.xen / "customer77.cfg"))
    assert (result.returncode, "ips 192.0.2.77," in result.stdout) == (0, True)
