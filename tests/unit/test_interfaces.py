"""The domain of an interface by sysfs, as captured on a dom0 with vifname= in some VMs' configs."""

from __future__ import annotations

from pathlib import Path

from xenbw.model import Kind
from xenbw.vifs.interfaces import identify


def interface(sysfs: Path, name: str, ifindex: int, node: str | None = None) -> None:
    folder = sysfs / name
    folder.mkdir()
    (folder / "ifindex").write_text(f"{ifindex}\n")
    if node is not None:
        (folder / "device").mkdir()
        (folder / "device" / "nodename").write_text(f"{node}\n")


def identity(sysfs: Path, name: str) -> tuple[int, int, Kind] | None:
    vif = identify(name, sysfs)
    return None if vif is None else (vif.domid, vif.devid, vif.kind)


def test_a_vif_named_after_another_domain_belongs_to_the_domain_of_its_node(tmp_path: Path) -> None:
    interface(tmp_path, "vif5.0", 9, "backend/vif/7/1")
    assert identity(tmp_path, "vif5.0") == (7, 1, Kind.VIF)


def test_a_vif_named_like_another_domain_s_tap_belongs_to_the_domain_of_its_node(tmp_path: Path) -> None:
    interface(tmp_path, "vif5.0", 8, "backend/vif/5/0")
    interface(tmp_path, "vif5.0-emu", 9, "backend/vif/7/1")
    assert identity(tmp_path, "vif5.0-emu") == (7, 1, Kind.VIF)


def test_a_tap_belongs_to_the_domain_of_the_vif_that_it_is_named_after(tmp_path: Path) -> None:
    interface(tmp_path, "web1", 8, "backend/vif/7/1")
    interface(tmp_path, "web1-emu", 9)
    assert identity(tmp_path, "web1-emu") == (7, 1, Kind.EMU)
