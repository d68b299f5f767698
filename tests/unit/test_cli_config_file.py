"""An added VM keeps its config file and the addresses that it was given, each until another is given."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path

import pytest

from tests.support.console import Console

pytestmark = pytest.mark.usefixtures("daemon")


@pytest.fixture
def shop(console: Console) -> Path:
    """The config file with which the VM shop was added; the command alone would find customer70.cfg, which dom0 starts
    with the VM's name as well."""
    for number in (70, 77):
        (console.xen / f"customer{number}.cfg").write_text(f"name='shop'\nvif=['ip=192.0.2.{number}']\n")
    (console.xen / "auto").mkdir()
    (console.xen / "auto/shop").symlink_to(console.xen / "customer70.cfg")
    file = console.xen / "customer77.cfg"
    console.done("addvm", "shop", "--limit", "1", "--config-file", str(file))
    return file


def test_a_given_address_leaves_the_config_file_as_it_is(console: Console, shop: Path) -> None:
    said = console.done("addvm", "shop", "--ip", "198.51.100.9").splitlines()
    assert said[0] == f"shop: not running, config file {shop}"
    assert said[-1] == "shop: ips 192.0.2.77 -> 198.51.100.9 192.0.2.77"
    assert console.vm("shop").config_file == str(shop)


def test_another_config_file_leaves_the_given_addresses_as_they_are(console: Console, shop: Path) -> None:
    console.done("addvm", "shop", "--ip", "198.51.100.9")
    other = console.xen / "customer70.cfg"
    result = console.run("addvm", "shop", "--limit", "2TB", "--config-file", str(other))
    assert (result.returncode, result.stderr) == (
        0,
        "note: shop: addresses kept that are not in its config file: 198.51.100.9 (--ip ADDR replaces them)\n",
    )
    vm = console.vm("shop")
    assert (vm.config_file, vm.ips) == (str(other), (ip_address("198.51.100.9"), ip_address("192.0.2.70")))


@pytest.mark.parametrize("gone", [False, True])
def test_of_a_config_file_that_was_changed_or_is_gone_no_address_is_kept(
    console: Console, shop: Path, gone: bool
) -> None:
    file = shop
    if gone:
        file = shop.rename(console.xen / "customer78.cfg")
    file.write_text("name='shop'\nvif=['ip=192.0.2.78']\n")
    result = console.run("addvm", "shop", "--config-file", str(file))
    assert "addresses dropped that are not in its config file: 192.0.2.77 (--ip ADDR gives them" in result.stderr
    assert console.vm("shop").ips == (ip_address("192.0.2.78"),)


def test_a_config_file_that_is_another_vms_by_now_is_pointed_out_and_not_used(console: Console, shop: Path) -> None:
    shop.write_text("name='other'\nvif=['ip=192.0.2.99']\n")
    result = console.run("addvm", "shop", "--ip", "198.51.100.9")
    assert f"note: {shop} is the config file of other now" in result.stderr
    assert ip_address("192.0.2.99") not in console.vm("shop").ips


def test_a_config_file_that_became_unreadable_is_pointed_out_and_another_is_looked_for(
    console: Console, shop: Path
) -> None:
    shop.write_bytes(b"\0")
    result = console.run("addvm", "shop", "--limit", "2TB")
    assert result.returncode == 0
    assert result.stdout.startswith(f"shop: not running, config file {console.xen}/customer70.cfg\n")
    assert result.stderr.startswith(f"note: {shop}:1: binary data")
    assert (console.vm("shop").config_file, console.vm("shop").ips) == (str(shop), (ip_address("192.0.2.77"),))
