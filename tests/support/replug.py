"""Take a card from a running guest and give it back, as `xl network-detach` and `network-attach` do."""

from __future__ import annotations

from tests.support.guest import Guest
from tests.support.host import Host
from tests.support.pace import within


def replug(host: Host, guest: Guest) -> None:
    """Detach and attach the guest's first card: the same domid, devid and MAC, and a new interface."""
    card, interface = guest.cards[0], guest.interface
    backend = f"/local/domain/0/backend/vif/{guest.domid}/{card.devid}"
    frontend = f"/local/domain/{guest.domid}/device/vif/{card.devid}"
    written = {
        f"{path}/{key}": value
        for path in (backend, frontend)
        for key in host.store.list(path)
        if (value := host.store.read(f"{path}/{key}")) is not None
    }
    host.namespace.ip(f"link del {interface}")
    host.store.remove(frontend)
    host.store.remove(f"{backend}/hotplug-status")
    guest.scripts.append(host.run_script("offline", guest.domid, card))
    host.store.remove(backend)
    host.store.write_all({**written, f"{backend}/hotplug-status": ""})
    peer = f"peer name eth{card.devid} address {card.mac} netns {guest.namespace.path}"
    # Mute as at its start, see Guest._plug.
    host.namespace.ip(f"link add {interface} type veth {peer}", f"link set {interface} addrgenmode none")
    guest.scripts.append(host.run_script("online", guest.domid, card))
    device = f"eth{card.devid}"
    guest.namespace.ip(f"link set {device} up", *(f"addr add {ip}/24 dev {device}" for ip in card.ips))
    # Wait a moment for the link, but do not require it: a link that a hook set down stays down.
    within(lambda: host.run(["cat", f"/sys/class/net/{interface}/brport/state"]).stdout == "3\n", 1.2)
