"""Which VM a domain belongs to: helper domains, migrating domains, preserved crashed domains, misleading names."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.guest import Guest
from tests.support.host import Host
from tests.support.pace import at_last, until
from xenbw.ledger import blocklog
from xenbw.model import Cause

pytestmark = pytest.mark.kernel

ADDRESS = "10.50.0.11"


@pytest.fixture
def host() -> Iterator[Host]:
    with Host() as machine:
        machine.ledger()
        yield machine


def owe(host: Host, name: str) -> None:
    """Block a VM in the ledger; no daemon applies that to the kernel."""
    host.add(name)
    vm = host.ledger().vm_named(name)
    assert vm is not None
    blocklog.block(host.ledger(), vm.id, Cause.ADMIN, "unpaid", vm.found_at, None)


def names(host: Host) -> set[str]:
    return {vm.name for vm in host.ledger().vms().values()}


def owner(host: Host, guest: Guest) -> str:
    """The VM that a running guest's first vif belongs to."""
    vms = host.ledger().vms()
    (found,) = {vms[b.vm_id].name for b in host.ledger().live_bindings().values() if b.domid == guest.domid}
    return found


def asked_again(host: Host, guest: Guest) -> None:
    """Wait until the daemon has asked xenstore once more about the guest's first vif, and has read the answer: it asks
    about a new vif each second, about all vifs each minute."""
    last = f"/local/domain/0/backend/vif/{guest.domid}/0/script"
    before = sum(path == last for _, path in host.store.seen)
    assert until(lambda: sum(path == last for _, path in host.store.seen) > before, 25)
    for _ in range(3):
        host.ask("sync")


def stub_of(host: Host, guest: Guest, domid: int = 90) -> Guest:
    """The stub device model of a guest, as libxl starts it: its target is in xenstore before it has a vif."""
    host.store.write_all({f"/local/domain/{domid}/target": str(guest.domid)})
    return host.start(f"{guest.name}-dm", (ADDRESS,), domid=domid, mac=guest.cards[0].mac)


# stub device models


def test_with_the_daemon_dead_the_stub_of_a_blocked_vm_is_blocked(host: Host) -> None:
    owe(host, "web1")
    stub = stub_of(host, host.start("web1", (ADDRESS,)))
    assert names(host) == {"web1"}
    assert owner(host, stub) == "web1"
    assert host.blocked(ADDRESS)
    assert not stub.ping("10.50.0.2")


def test_a_stubs_traffic_is_its_vms_usage_and_is_blocked_with_the_vm(running: Host) -> None:
    running.add("web1", limit_bytes=10**9)
    guest = running.start("web1", (ADDRESS,))
    stub = stub_of(running, guest)
    assert stub.send(50_000) == 50_000
    assert until(lambda: running.usage("web1").out_bytes > 50_000)
    running.xenbw("block", "web1", "--reason", "unpaid")
    assert until(lambda: running.blocked(ADDRESS))
    assert not stub.ping("10.50.0.2")
    assert not guest.ping("10.50.0.2")
    assert names(running) == {"web1"}
    assert running.blocked(ADDRESS)


def test_the_daemon_recognises_the_stub_of_a_vm_without_a_hook_call() -> None:
    with Host(hooks=()) as host:
        host.start_daemon()
        stub = stub_of(host, host.start("web1", (ADDRESS,)))
        assert until(lambda: len(host.ledger().live_bindings()) == 2)
        assert owner(host, stub) == "web1"


def test_a_domain_that_wrote_a_target_itself_is_a_vm_of_its_own(host: Host) -> None:
    owe(host, "web1")
    host.start("web1", (ADDRESS,))
    host.store.write_all({"/local/domain/91/target": "1"})
    host.store.tree.set_perms(b"/local/domain/91/target", (b"n91",))
    evil = host.start("evil", ("10.50.0.12",), domid=91)
    assert owner(host, evil) == "evil"
    assert evil.ping("10.50.0.2")


# preserved crashed domains


def test_a_preserved_crashed_domain_does_not_prevent_its_vms_null_route(running: Host) -> None:
    running.add("web1", limit_bytes=10**9)
    dead = running.start("web1", (ADDRESS,))
    running.xenbw("block", "web1", "--reason", "unpaid")
    assert until(lambda: running.blocked(ADDRESS))
    dead.preserve()
    again = running.start("web1", (ADDRESS,))
    asked_again(running, dead)
    assert owner(running, dead) == owner(running, again) == "web1"
    assert names(running) == {"web1"}
    assert running.blocked(ADDRESS)


def test_a_daemon_that_starts_later_knows_a_preserved_crashed_domains_vm() -> None:
    with Host(hooks=()) as host:
        dead = host.start("web1", (ADDRESS,))
        dead.preserve()
        host.start_daemon()
        assert until(lambda: len(host.ledger().live_bindings()) == 1)
        assert names(host) == {"web1"}


@pytest.mark.parametrize("name", ["web1-20260801T0840Z", "web1--migratedaway", "migrating-web1", "Zombie-web1"])
def test_a_vm_named_like_a_domain_that_a_toolstack_leaves_behind_is_a_vm(running: Host, name: str) -> None:
    running.start("web1", (ADDRESS,))
    other = running.start(name, ("10.50.0.12",))
    asked_again(running, other)
    assert owner(running, other) == name


def test_a_vm_that_an_admin_renames_is_a_vm_of_the_new_name(running: Host) -> None:
    guest = running.start("web1", (ADDRESS,))
    guest.rename("web1-20260801T0840Z")
    assert at_last(lambda: owner(running, guest), "web1-20260801T0840Z") == "web1-20260801T0840Z"


# migration


@pytest.mark.parametrize("name", ["web1--migratedaway", "migrating-web1", "Zombie-web1"])
def test_a_domain_that_a_toolstack_renames_as_it_leaves_still_belongs_to_its_vm(running: Host, name: str) -> None:
    guest = running.start("web1", (ADDRESS,))
    guest.rename(name)
    asked_again(running, guest)
    assert owner(running, guest) == "web1"
    assert names(running) == {"web1"}


def test_with_the_daemon_dead_a_blocked_vm_that_migrates_here_is_blocked_before_it_runs(host: Host) -> None:
    owe(host, "web1")
    guest = host.start("web1", (ADDRESS,), received=True)
    assert names(host) == {"web1"}
    assert host.blocked(ADDRESS)
    assert not guest.ping("10.50.0.2")


def test_a_vm_that_migrates_here_is_known_by_its_name_without_a_hook_call() -> None:
    with Host(hooks=()) as host:
        host.start_daemon()
        guest = host.start("web1", (ADDRESS,), received=True)
        assert until(lambda: len(host.ledger().live_bindings()) == 1)
        assert owner(host, guest) == "web1"
        assert names(host) == {"web1"}


@pytest.mark.parametrize("hooked", [True, False])
def test_a_vm_with_the_name_of_another_migrating_vm_is_not_charged_to_that_vm(hooked: bool) -> None:
    with Host() if hooked else Host(hooks=()) as host:
        host.start_daemon()
        host.add("victim", limit_bytes=20_000)
        victim = host.start("victim", (ADDRESS,))
        evil = host.start("victim--incoming", ("10.50.0.12",))
        evil.send(200_000)
        assert until(lambda: host.usage("victim--incoming").out_bytes > 200_000)
        assert host.usage("victim").out_bytes < 20_000
        assert owner(host, evil) == "victim--incoming"
        assert not host.blocked(ADDRESS)
        assert victim.ping("10.50.0.2", timeout=2)
