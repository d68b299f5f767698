from __future__ import annotations

import os
import signal
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import pytest

from xenbw.errors import XenbwError
from xenbw.xen.domaincfg import DomainConfig, VifConfig, read

DATA = Path(__file__).parents[1] / "data/domaincfg"
BARE = VifConfig(mac=None, ips=(), bridge=None, interface=None, script=None, backend=None)


# What a config says


def test_reads_the_name_and_the_vifs() -> None:
    assert read(DATA / "typical.cfg") == DomainConfig(
        path=DATA / "typical.cfg",
        name="web1",
        vifs=(
            VifConfig(
                mac="00:16:3e:77:00:0b",
                ips=(IPv4Address("10.50.0.9"), IPv4Address("10.50.0.10")),
                bridge="xenbr0",
                interface="web1.eth0",
                script=None,
                backend=None,
            ),
        ),
    )


def test_an_empty_string_is_a_vif() -> None:
    assert read(DATA / "lists.cfg").vifs[1] == BARE


def test_script_and_backend_are_read(write) -> None:
    path = write("a", "vif = [ 'script=vif-openvswitch,backend=driverdom' ]")
    vif = read(path).vifs[0]
    assert (vif.script, vif.backend) == ("vif-openvswitch", "driverdom")


def test_the_last_of_two_equal_keys_counts(write) -> None:
    assert read(write("a", "vif = [ 'bridge=one,bridge=two' ]")).vifs[0].bridge == "two"


@pytest.mark.parametrize("mac", ["00:16:3E:1:2:F", "00-16-3e-01-02-0f"])
def test_a_mac_is_lower_case_with_two_digits_each(write, mac: str) -> None:
    assert read(write("a", f"vif = [ 'mac={mac}' ]")).vifs[0].mac == "00:16:3e:01:02:0f"


@pytest.mark.parametrize("mac", ["00:16:3e:01:02", "00:16:3e:01:02:0g", "random", "00:16:3e:01:02:0f0"])
def test_an_invalid_mac_is_none_and_reported(write, mac: str) -> None:
    config = read(write("a", f"name = 'a'\nvif = [ '', 'mac={mac}' ]"))
    assert config.vifs[1].mac is None
    assert any("vif 1" in problem and mac in problem for problem in config.problems)


def test_a_name_may_be_missing(write) -> None:
    assert read(write("a", "memory = 512\n")).name is None


def test_names_that_are_not_utf8_are_decoded_as_everywhere() -> None:
    config = read(DATA / "bytes.cfg")
    assert (config.name, config.vifs[0].interface) == (r"ét\xe9", r"\xff")


def test_vifs_after_one_that_is_a_list_are_ignored_as_by_xl() -> None:
    config = read(DATA / "nested-vif.cfg")
    assert [vif.bridge for vif in config.vifs] == ["a"]
    assert any("vif 1" in problem for problem in config.problems)


def test_a_vif_that_is_no_list_is_reported() -> None:
    config = read(DATA / "swapped-types.cfg")
    assert (config.name, config.vifs) == (None, ())
    assert any("vif" in problem for problem in config.problems)


# Addresses


def test_a_config_reports_words_that_are_no_address(write) -> None:
    config = read(write("a", "vif = [ 'ip=10.50.0.9 dhcp' ]"))
    assert config.vifs[0].ips == (IPv4Address("10.50.0.9"),)
    assert any("'dhcp'" in problem for problem in config.problems)


@pytest.mark.parametrize("ip", ["10.50.0.2/8", "10.50.0.0/16", "203.0.113.8/29", "10.50.0.9/255.255.255.0"])
def test_a_range_or_a_network_is_no_address_and_is_reported(write, ip: str) -> None:
    config = read(write("a", f"vif = [ 'ip={ip}' ]"))
    assert config.vifs[0].ips == ()
    assert any(repr(ip) in problem for problem in config.problems)


def test_an_address_in_quotes_of_its_own_is_taken(write) -> None:
    config = read(write("a", """vif = ['ip="192.168.42.190",bridge=xenbr0']"""))
    assert (config.vifs[0].ips, config.problems) == ((IPv4Address("192.168.42.190"),), ())


# Spelling of a vif's settings


def test_blanks_around_the_equals_sign_are_accepted_as_by_xm_and_reported(write) -> None:
    config = read(write("a", "vif = [ 'mac = 00:16:3e:00:00:05, ip = 192.0.2.5, bridge = xenbr0' ]"))
    vif = config.vifs[0]
    assert (vif.mac, vif.ips, vif.bridge) == ("00:16:3e:00:00:05", (IPv4Address("192.0.2.5"),), "xenbr0")
    assert len([problem for problem in config.problems if "which xm accepted and xl refuses" in problem]) == 3


@pytest.mark.parametrize("token", ["MAC=00:16:3e:00:00:29", "Ip=192.0.2.29", "bridge", "IP"])
def test_a_setting_in_another_spelling_than_xl_s_is_ignored_and_reported(write, token: str) -> None:
    config = read(write("a", f"vif = [ '{token}' ]"))
    assert config.vifs == (BARE,)
    assert any(repr(token) in problem for problem in config.problems)


def test_settings_that_xl_knows_and_xenbw_does_not_read_are_no_problem(write) -> None:
    assert read(write("a", "vif = [ 'model=e1000,rate=10Mb/s,type=vif' ]")).problems == ()


# xm's Python style


def test_reads_an_xm_config_by_its_plain_assignments() -> None:
    config = read(DATA / "xm-style.cfg")
    assert config.name == "ExampleHVM"
    assert [vif.bridge for vif in config.vifs] == ["xenbr0", None]
    assert config.vifs[0].mac == "00:16:3e:00:00:11"
    assert config.vifs[1].ips == (IPv4Address("192.0.2.7"), IPv6Address("2001:db8::7"))


def test_a_setting_that_only_running_an_xm_config_would_reveal_is_unknown_and_reported() -> None:
    config = read(DATA / "xm-computed.cfg")
    assert (config.name, config.vifs) == (None, ())
    assert [problem.split(": ")[1].split()[0] for problem in config.problems] == ["name", "vif"]


@pytest.mark.parametrize(
    "change",
    [
        "if memory > 5: name = 'other'",
        "for name in ['other']: pass",
        "import other as name",
        "def name(): pass",
        "del name",
        "name, memory = 'other', 5",
        "name += 5",
        "name = name.upper()",
        "name = True",
        "name = f'{memory}'",
    ],
)
def test_a_name_that_python_code_may_change_is_unknown(write, change: str) -> None:
    assert read(write("a", f"import os\nmemory = 64\nname = 'web1'\n{change}\n")).name is None


@pytest.mark.parametrize("change", ["vif.append('')", "vif[0] = ''", "extend(vif)", "x = vif * 2"])
def test_a_vif_list_that_python_code_may_change_is_unknown(write, change: str) -> None:
    config = read(write("a", f"import os\nvif = [ 'bridge=a' ]\n{change}\n"))
    assert config.vifs == ()
    assert config.problems


@pytest.mark.parametrize("text", ["name = 'we' + 'b1'", "base = 'web'\nname = base + '1'", "x = name = 'web1'"])
def test_constants_names_and_their_sums_are_known(write, text: str) -> None:
    assert read(write("a", f"import os\n{text}\n")).name == "web1"


def test_a_name_computed_first_and_written_out_later_is_known(write) -> None:
    config = read(write("a", "name = str(5)\nname = 'web1'\n"))
    assert (config.name, config.problems) == ("web1", ())


def test_nothing_in_a_config_is_run(write, tmp_path: Path) -> None:
    trace = tmp_path / "ran"
    read(write("a", f"import os\nname = 'web1' + str(open({str(trace)!r}, 'w'))\nos.mkdir({str(trace)!r})\n"))
    assert not trace.exists()


def test_windows_line_ends_are_read_as_xm_did() -> None:
    assert read(DATA / "crlf.cfg").name == "dos"


# Files that are no config


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", 1),
        ("# only a comment\n", 1),
        ("name = 'web1'\nvif = [ 'bridge=a',\n", 3),
        ("name = 'web1'\nvif = [ 'brid", 2),
        ("name = 'web1'\nmemory =", 2),
        ("name = 'web1'\nvi", 2),
        ("name = 'web1'\n\nthis is a letter to a customer\n", 3),
        ("(domain\n  (name web1))\n", 2),
        (b"\x7fELF\x02\x01\x01\x00\x00", 1),
        (b"name = 'a'\n\0\0\0", 2),
        ("name = " + "[" * 5000, 1),
        ("name = " + "(" * 5000, 1),
        ("import os\nname = " + "-" * 50000 + "1\n", 1),
        ("import os\nname = 'a'" + " + 'a'" * 3000 + "\n", 1),
        ("import os\nname = 0x" + "f" * 9000 + "\n", 1),
    ],
)
def test_a_damaged_config_is_an_error_with_file_line_and_hint(write, text: str | bytes, line: int) -> None:
    path = write("a.cfg", text)
    with pytest.raises(XenbwError) as caught:
        read(path)
    assert caught.value.message.startswith(f"{path}:{line}: ")
    assert caught.value.hint


def test_a_file_over_1_mib_is_refused(write) -> None:
    assert read(write("fits", b"name = 'a'\n".ljust(1 << 20, b"\n"))).name == "a"
    with pytest.raises(XenbwError, match="larger than 1 MiB"):
        read(write("a", b"name = 'a'\n".ljust((1 << 20) + 1, b"\n")))


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(XenbwError, match="No such file"):
        read(tmp_path / "none.cfg")


def test_a_fifo_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(XenbwError, match="not a regular file"):
        read(tmp_path / "fifo")


@pytest.mark.parametrize(
    "line",
    [
        "execfile('/etc/xen/common.inc')",
        "from xencommon import *",
        "exec(open('/etc/xen/common.inc').read())",
        "if True:\n    execfile('x')",
        "globals()['vif'] = []",
    ],
)
def test_settings_that_an_included_file_may_change_are_reported_as_computed(write, line: str) -> None:
    config = read(write("a", f"import os\nname = 'n7'\nvif = ['ip=192.0.2.7']\n{line}\nmemory = 512\n"))
    assert (config.name, config.vifs) == (None, ())
    assert [problem for problem in config.problems if "computed by Python code" in problem] == list(config.problems)
    assert len(config.problems) == 2


def test_literal_settings_after_an_included_file_are_known(write) -> None:
    config = read(write("a", "from xencommon import *\nname = 'n8'\nvif = ['ip=192.0.2.8']\n"))
    assert (config.name, config.vifs[0].ips, config.problems) == ("n8", (IPv4Address("192.0.2.8"),), ())


@pytest.mark.parametrize("grow", ["a = a + a\n", "a += a\n", "a = [a, a]\n", "a = [a] + [a]\n"])
def test_a_short_file_whose_values_would_fill_the_memory_is_refused(write, grow: str) -> None:
    with pytest.raises(XenbwError, match="larger than those of any domain"):
        read(write("a", "import os\na = ['x'] + ['y']\n" + grow * 40))


def test_a_list_that_is_added_to_a_hundred_thousand_times_is_read_in_one_go(write) -> None:
    # Each time copying what there is would take minutes.
    signal.alarm(60)
    try:
        config = read(write("a", "name = 'web1'\n" + "a+=[1]\n" * 100_000))
    finally:
        signal.alarm(0)
    assert config.name == "web1"
