"""The meters: /proc/net/dev in one pass, xentop's numbers assigned to the right interfaces, and nft's counters beside
the kernel's."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tests.support.pace import until
from xenbw.accounting import advance
from xenbw.errors import MeterError, XenbwError
from xenbw.meters.counters import KernelMeter, XentopMeter, look
from xenbw.meters.nft import NftMeter
from xenbw.model import NOTHING, UNREAD, Amounts, Counters, Life, Mark, Reading
from xenbw.nft import nft
from xenbw.runner import CommandError, Result
from xenbw.text import decode

CAPTURE = Path("tests/data/xen-4.17/03-many-vifname-longname-oddname")
LIFE = Life(1, 0, 1)


@dataclass(frozen=True)
class Vif:
    """An interface for a meter; its binding id is the interface's name, to make the tests readable."""

    binding_id: str
    key: Life = LIFE
    mark: Mark = UNREAD

    @property
    def interface(self) -> str:
        return self.binding_id


def vifs(*names: str) -> list[Any]:
    return [Vif(name) for name in names]


def test_the_kernel_meter_reads_the_wanted_interfaces_in_the_guests_directions() -> None:
    meter = KernelMeter(CAPTURE / "proc-net-dev.txt")
    assert meter.read(vifs("vif1.0", "web0", "gone")) == {
        "vif1.0": Reading(Counters(in_bytes=20304713, out_bytes=20324843)),
        "web0": Reading(Counters(in_bytes=20036467, out_bytes=11955)),
    }


def test_the_kernel_meter_can_read_all_interfaces() -> None:
    everything = KernelMeter(CAPTURE / "proc-net-dev.txt").read_all()
    assert list(everything) == ["lo", "xenbr0", "out0", "vif1.0", "vif6.0", "vif6.1", "web0", "vif8.0"]


@pytest.mark.parametrize("separator", ["\u2028", "\x85", "\x1c"])
def test_a_name_in_which_a_line_seems_to_end_is_no_other_interface(tmp_path: Path, separator: str) -> None:
    odd = f"x{separator}web"
    lines = [f" {name}: {count} 1 0 0 0 0 0 0 {count} 1 0 0 0 0 0 0\n" for name, count in (("web", 5), (odd, 7))]
    (tmp_path / "dev").write_text("".join(["Inter-|   Receive\n face |bytes\n", *lines]))
    meter = KernelMeter(tmp_path / "dev")
    assert meter.read_all() == {"web": Counters(5, 5), odd: Counters(7, 7)}


def test_the_kernel_meter_reads_bytes_and_packets_at_once() -> None:
    traffic = KernelMeter(CAPTURE / "proc-net-dev.txt").traffic()
    assert traffic["web0"] == (Counters(in_bytes=20036467, out_bytes=11955), Counters(523, 226))


def test_a_kernel_meter_that_cannot_be_read_says_so(tmp_path: Path) -> None:
    with pytest.raises(MeterError, match="No such file"):
        KernelMeter(tmp_path / "none").read(vifs("vif1.0"))


class Machine:
    """A host with the interfaces and the xentop output of a capture; names are kept by ifindex, as the census does."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, output: bytes) -> None:
        text = (CAPTURE / "sysfs-net.txt").read_text()
        self.indexes = {name: int(index) for name, index in re.findall(r"/sys/class/net/(\S+) ifindex=(\d+)", text)}
        self.output: bytes | XenbwError = output
        self.status = 0
        self.bound = {
            "vif1.0": "web1",
            "vif6.0": "customer-42.example.org_web+db",
            "vif6.1": "customer-42.example.org_web+db",
            "web0": "ren",
            "vif8.0": "sp ace:col",
        }
        monkeypatch.setattr("socket.if_nameindex", lambda: [(index, name) for name, index in self.indexes.items()])
        everything = KernelMeter(CAPTURE / "proc-net-dev.txt").read_all()
        monkeypatch.setattr(
            "xenbw.meters.counters.KernelMeter.read_all",
            lambda _: {name: everything[name] for name in self.indexes if name in everything},
        )
        self.meter = XentopMeter(self.run, self.owner, interval=0.01)

    def run(self, argv: list[str], **_: object) -> Result:
        assert argv == ["xentop", "-b", "-f", "-n", "-i", "1"]
        if isinstance(self.output, XenbwError):
            raise self.output
        return Result(self.status, self.output, b"")

    def owner(self, interface: str) -> tuple[str, int] | None:
        return (self.bound[interface], self.indexes[interface]) if interface in self.bound else None


def into(reading: Reading) -> int:
    assert reading.kernel is not None
    return reading.kernel.in_bytes


MeterAt = KernelMeter(CAPTURE / "proc-net-dev.txt")


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch, (CAPTURE / "xentop-b-f-n-i1.txt").read_bytes())


def test_xentops_numbers_are_those_of_the_kernel_for_every_interface(machine: Machine) -> None:
    assert until(lambda: bool(machine.meter.read(vifs(*machine.bound))))
    kernel = MeterAt.read(vifs(*machine.bound))
    read = machine.meter.read(vifs(*machine.bound))
    assert read.keys() == kernel.keys()
    # The two were captured seconds apart on a running host: a few broadcasts may lie between them.
    assert all(abs(into(read[name]) - into(kernel[name])) < 1000 for name in kernel)
    assert read["vif6.1"] != read["vif6.0"]


def test_a_domain_whose_networks_do_not_match_its_interfaces_is_left_out(machine: Machine) -> None:
    del machine.bound["vif6.1"]
    assert until(lambda: bool(machine.meter.read(vifs("web0"))))
    assert machine.meter.read(vifs("vif6.0", "web0")).keys() == {"web0"}


def test_a_name_that_looks_like_another_domains_lines_does_not_change_what_that_one_is_charged(
    machine: Machine,
) -> None:
    assert isinstance(machine.output, bytes)
    lines = machine.output.split(b"\n")
    ren = next(at for at, line in enumerate(lines) if line.strip().startswith(b"ren "))
    network = lines[ren + 1].replace(b"20036467bytes", b"       7bytes")
    name = b"\n".join((b"x", lines[ren], network, network, b"NAME STATE CPU(sec)", b"y"))
    machine.output = machine.output.replace(b"                          web1 --b", name + b" --b")
    machine.bound["vif1.0"] = decode(name)
    machine.meter = XentopMeter(machine.run, machine.owner, interval=0.01)
    assert until(lambda: bool(machine.meter.read(vifs("web0"))))
    read, kernel = machine.meter.read(vifs(*machine.bound)), MeterAt.read(vifs(*machine.bound))
    assert read.keys() == kernel.keys()
    assert all(read[name] == kernel[name] for name in ("web0", "vif1.0"))


def test_two_domains_of_one_vm_are_both_counted(machine: Machine) -> None:
    machine.bound["vif8.0"] = "web1"
    machine.meter = XentopMeter(machine.run, machine.owner, interval=0.01)
    assert until(lambda: machine.meter.read(vifs("vif1.0", "vif8.0")).keys() == {"vif1.0", "vif8.0"})


def test_an_interface_recreated_since_the_sample_gets_no_bytes_of_its_earlier_life(machine: Machine) -> None:
    assert until(lambda: bool(machine.meter.read(vifs("web0"))))
    machine.meter.close()
    machine.indexes["web0"] += 100
    assert machine.meter.read(vifs("web0", "vif1.0")).keys() == {"vif1.0"}


def test_what_xentop_read_before_a_moment_is_not_given_out_after_it(machine: Machine) -> None:
    assert until(lambda: bool(machine.meter.read(vifs("web0"))))
    before = machine.meter._sample
    machine.meter.forget()
    read = machine.meter.read(vifs("web0"))
    assert (machine.meter._sample is not before) or read == {}
    assert until(lambda: bool(machine.meter.read(vifs("web0"))))
    assert machine.meter._sample is not before


def test_an_interface_whose_name_is_not_utf8_is_in_the_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.if_nameindex", lambda: [(1, "w\udcffb")])
    monkeypatch.setattr(KernelMeter, "read_all", lambda _: {"w\\xffb": Counters(1, 1)})
    output = (CAPTURE / "xentop-b-f-n-i1.txt").read_bytes()
    assert look(lambda *_, **__: Result(0, output, b"")).interfaces == (("w\\xffb", 1),)


def test_a_failing_xentop_is_reported_until_it_works_again(machine: Machine) -> None:
    assert until(lambda: bool(machine.meter.read(vifs("web0"))))
    machine.status = 1

    def fails() -> bool:
        try:
            machine.meter.read(vifs("web0"))
        except MeterError as error:
            return "exit status 1" in error.message
        return False

    assert until(fails)
    machine.status = 0
    assert until(lambda: not fails())


@pytest.mark.parametrize("problem", [CommandError("xentop: command not found"), b"no xentop output at all\n"])
def test_a_missing_or_broken_xentop_is_an_error_and_not_a_reading(
    machine: Machine, problem: XenbwError | bytes
) -> None:
    machine.output = problem

    def fails() -> bool:
        try:
            return machine.meter.read(vifs("web0")) is None
        except MeterError:
            return True

    assert until(fails)


# nft


class Wire:
    """A vif whose frames both nft and the kernel count, as the NftMeter reads them. `late` bytes from the guest pass
    between two readings: of nft's counters and of the kernel's. One frame passed before nft counted."""

    def __init__(self, path: Path, late: int) -> None:
        self.path, self.late = path, late
        self.sent, self.dumps = 0, 0
        chains, quotas = (
            SimpleNamespace(fresh=set()),
            SimpleNamespace(around=lambda count: count(), forget=lambda: None),
        )
        self.meter = NftMeter(cast("Any", self), cast("Any", chains), cast("Any", quotas), KernelMeter(path))
        self.packets: dict[str, int] = {}

    def counters(self, _names: object = None) -> dict[str, int]:
        counted = dict.fromkeys((f"{nft.key(*LIFE)}-{what}" for what in nft.WHAT), 0)
        counted[f"{nft.key(*LIFE)}-out"] = self.sent
        self.dumps += 1
        self.sent, self.late = self.sent + self.late, 0
        self.path.write_text(f"vif1.0: {self.sent + 74} 2 0 0 0 0 0 0 0 0 0 0 0 0 0 0\n")
        return counted

    def generation(self) -> int:
        return 1


@pytest.mark.parametrize("late", [0, 30_000])
def test_bytes_that_pass_during_the_first_reading_of_a_vif_bound_late_are_charged_once(
    tmp_path: Path, late: int
) -> None:
    wire = Wire(tmp_path / "dev", late)
    mark, amounts = advance(UNREAD, wire.meter.read([cast("Any", Vif("vif1.0"))])[cast("Any", "vif1.0")])
    charged = amounts.out_bytes
    wire.sent += 500
    mark, amounts = advance(mark, wire.meter.read([cast("Any", Vif("vif1.0", mark=mark))])[cast("Any", "vif1.0")])
    assert charged + amounts.out_bytes == 74 + late + 500
    assert mark == Mark(Counters(0, 74 + late + 500), NOTHING._replace(out_bytes=late + 500), Counters(0, 74))


def test_the_first_reading_of_a_vif_bound_late_is_left_to_the_round(tmp_path: Path) -> None:
    wire = Wire(tmp_path / "dev", 0)
    assert wire.meter.glance([cast("Any", Vif("vif1.0"))]) == {}
    read = Vif("vif1.0", mark=Mark(Counters(0, 74), Amounts(0, 0)))
    assert wire.meter.glance([cast("Any", read)]) != {}


def test_later_readings_read_nfts_counters_once(tmp_path: Path) -> None:
    wire = Wire(tmp_path / "dev", 0)
    wire.meter.read([cast("Any", Vif("vif1.0", mark=Mark(Counters(0, 74), Amounts(0, 0))))])
    assert wire.dumps == 1
