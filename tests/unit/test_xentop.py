from __future__ import annotations

from pathlib import Path

import pytest

from xenbw.errors import XenbwError
from xenbw.xen.xentop import DomainSample, NetSample, parse

DATA = Path(__file__).parents[1] / "data"
CAPTURES = DATA / "xen-4.17"
ODD_NAMES = CAPTURES / "03-many-vifname-longname-oddname"


def read(path: Path) -> dict[str, DomainSample]:
    return {domain.name: domain for domain in parse(path.read_bytes())}


def made(name: str) -> dict[str, DomainSample]:
    """Output in xentop's own formats (tools/xentop/xentop.c) that the captured host does not show."""
    return read(DATA / "xentop" / name)


def proc_net_dev(folder: Path) -> dict[str, NetSample]:
    """Each interface's counters; receive and transmit are the backend's, as xentop's."""
    samples = {}
    for line in (folder / "proc-net-dev.txt").read_text().splitlines()[2:]:
        interface, _, counters = line.partition(":")
        c = [int(counter) for counter in counters.split()]
        samples[interface.strip()] = NetSample(
            index=0, rx_bytes=c[0], rx_packets=c[1], rx_drops=c[3], tx_bytes=c[8], tx_packets=c[9], tx_drops=c[11]
        )
    return samples


def test_reads_a_domain_as_captured() -> None:
    assert read(ODD_NAMES / "xentop-b-f-n-i1.txt")["customer-42.example.org_web+db"] == DomainSample(
        name="customer-42.example.org_web+db",
        state="--b---",
        nets=2,
        tx_kib=6,
        rx_kib=1,
        networks=(
            NetSample(index=0, rx_bytes=1180, tx_bytes=3846, rx_packets=18, tx_packets=49, rx_drops=0, tx_drops=0),
            NetSample(index=1, rx_bytes=704, tx_bytes=3224, rx_packets=11, tx_packets=42, rx_drops=0, tx_drops=1),
        ),
    )


def test_transmitted_is_in_and_received_is_out() -> None:
    network = read(CAPTURES / "02-one-guest-after-traffic/xentop-b-f-n-i1.txt")["web1"].networks[0]
    assert (network.in_bytes, network.out_bytes) == (20_295_629, 20_324_675)


def test_networks_are_numbered_in_the_order_of_proc_net_dev() -> None:
    devices = proc_net_dev(ODD_NAMES)
    domains = read(ODD_NAMES / "xentop-b-f-n-i1.txt")
    interfaces = {
        "web1": ["vif1.0"],
        "customer-42.example.org_web+db": ["vif6.0", "vif6.1"],
        "ren": ["web0"],
        "sp ace:col": ["vif8.0"],
    }
    for name, expected in interfaces.items():
        assert [n.in_bytes for n in domains[name].networks] == [devices[i].in_bytes for i in expected]
        assert [n.out_bytes for n in domains[name].networks] == [devices[i].out_bytes for i in expected]


def test_names_may_hold_spaces_and_colons() -> None:
    assert list(read(ODD_NAMES / "xentop-b-f-n-i1.txt")) == [
        "customer-42.example.org_web+db",
        "Domain-0",
        "ren",
        "sp ace:col",
        "web1",
    ]


def test_without_f_names_are_cut_to_ten_characters() -> None:
    assert "customer-4" in read(ODD_NAMES / "xentop-b-n-i1.txt")


def test_without_n_there_are_no_networks_but_the_sums() -> None:
    domain = read(ODD_NAMES / "xentop-b-f-i1.txt")["ren"]
    assert (domain.nets, domain.tx_kib, domain.rx_kib, domain.networks) == (1, 19566, 11, ())


def test_a_guest_without_vifs_has_no_networks() -> None:
    domain = read(CAPTURES / "05-three-guests-and-novif-before-traffic/xentop-b-f-n-i1.txt")["novif"]
    assert (domain.nets, domain.networks) == (0, ())


def test_counters_above_4_gib_are_whole() -> None:
    assert made("no-limit.txt")["web1"].networks[0].in_bytes == 5_397_966_016


def test_the_last_of_two_iterations_counts() -> None:
    domains = read(CAPTURES / "02-one-guest-after-traffic/xentop-b-f-n-x-v-i2.txt")
    assert list(domains) == ["Domain-0", "web1"]
    assert domains["web1"].networks[0].out_bytes == 20_324_731


@pytest.mark.parametrize("cut", [b"drop\n", b"0drop\n", b"Net0 RX: 20324731bytes     6184pkts        0err"])
def test_a_last_iteration_that_was_cut_off_does_not_count(cut: bytes) -> None:
    output = (CAPTURES / "02-one-guest-after-traffic/xentop-b-f-n-x-v-i2.txt").read_bytes()
    until = output[: output.rindex(cut)]
    assert parse(until)[1].networks[0].out_bytes == 20_324_675


def test_every_capture_is_read_to_the_last_domain() -> None:
    captures = sorted(CAPTURES.glob("*/xentop-*.txt"))
    assert captures
    for capture in captures:
        full_names = "-f-" in capture.name
        listed = capture.with_name("xl-list.txt").read_text().splitlines()[1:]
        names = {line[:40].strip()[: None if full_names else 10].strip() for line in listed}
        assert set(read(capture)) == names, capture


def test_no_limit_is_one_value() -> None:
    domains = made("no-limit.txt")
    assert list(domains) == ["Domain-0", "web1"]
    assert (domains["web1"].nets, domains["web1"].tx_kib, domains["web1"].rx_kib) == (1, 5271451, 22658)


def test_no_limit_in_a_name_stays_in_the_name() -> None:
    output = (DATA / "xentop/no-limit.txt").read_bytes().replace(b"    web1 ", b"no limit ")
    assert [domain.name for domain in parse(output)] == ["Domain-0", "no limit"]


def test_a_name_may_look_like_a_state() -> None:
    output = (DATA / "xentop/no-limit.txt").read_bytes().replace(b"web1 --b---", b"web --b--- --b---")
    assert parse(output)[1].name == "web --b---"


def test_a_name_that_is_not_utf8_is_decoded_as_everywhere() -> None:
    output = (DATA / "xentop/no-limit.txt").read_bytes().replace(b"web1", b"web\xff")
    assert parse(output)[1].name == r"web\xff"


@pytest.mark.parametrize("file", ["no-rsect.txt", "no-ssid.txt"])
def test_columns_are_found_by_their_header(file: str) -> None:
    domain = made(file)["web1"]
    assert (domain.state, domain.nets, domain.tx_kib, domain.rx_kib) == ("--b---", 1, 19828, 19848)


def test_a_missing_column_is_none() -> None:
    output = b"      NAME  STATE   CPU(sec) VCPUS\n      web1 --b---         30     1\n"
    assert parse(output) == (DomainSample("web1", "--b---", None, None, None, ()),)


def test_lines_on_vcpus_and_disks_are_skipped() -> None:
    domains = made("vcpus-and-vbds.txt")
    assert list(domains) == ["Domain-0", "web1"]
    assert domains["web1"].networks == (
        NetSample(0, 20_324_843, 20_304_713, 6186, 4568, 0, 0),
        NetSample(1, 648, 950, 10, 13, 0, 3),
    )


@pytest.mark.parametrize(
    "garbage",
    [
        b"",
        b"\0\xff\n",
        b"Failed to retrieve statistics from libxenstat\n",
        b"      NAME  STATE   CPU(sec)\n",
        b"      web1 --b---         30     1\n",
    ],
)
def test_garbage_is_an_error_with_a_hint(garbage: bytes) -> None:
    with pytest.raises(XenbwError) as caught:
        parse(garbage)
    assert caught.value.hint


def test_a_name_like_a_header_of_a_thousand_columns_is_not_a_header() -> None:
    # An expression for so many columns would take half a minute to make.
    forged = b"\nNAME STATE" + b" X" * 100_000 + b"\n"
    captured = (ODD_NAMES / "xentop-b-f-n-i1.txt").read_bytes()
    assert parse(captured + forged) == parse(captured)


def test_counters_with_too_many_digits_for_python_are_no_network() -> None:
    captured = (ODD_NAMES / "xentop-b-f-n-i1.txt").read_bytes()
    digits = b"9" * 5000
    forged = b"\nNet0 RX:%bbytes 1pkts 0err 0drop  TX:%bbytes 1pkts 0err 0drop\n" % (digits, digits)
    assert parse(captured + forged) == parse(captured)
