"""The story of a VM and its allowance, with real interfaces, scripts, traffic and firewall.

Exits with 1 if a printed claim is false.
"""

from __future__ import annotations

import subprocess
import sys
import time
from ipaddress import IPv4Address

from tests.demo.stage import Stage
from tests.support.capture import Capture
from tests.support.guest import Guest
from tests.support.host import Host
from tests.support.pace import until
from tests.support.traffic import stream
from xenbw.quota import FRAME

MB = 1_000_000
RATE = 8  # Mbit/s


def main() -> int:
    stage = Stage()
    started = time.monotonic()
    with Host() as host:
        stage.show_host(host)
        host.start_daemon()
        web1, db1 = start(stage, host)
        traffic(stage, host, web1, db1)
        warning(stage, host, web1)
        over(stage, host, web1, db1)
        restart(stage, host, web1)
        dead_daemon(stage, host, web1)
        raised(stage, host, web1)
        unattended(stage, host, web1)
        throttled(stage, host, db1)
        reassigned(stage, host, web1)
        host.stop_daemon()
    return stage.close(time.monotonic() - started)


def start(stage: Stage, host: Host) -> tuple[Guest, Guest]:
    stage.step("Two VMs start. Xen's own vif-bridge runs the hook, and the admin gives the VMs allowances")
    config(host, "web1", "00:16:3e:50:01:00", "10.50.0.11", "fd50::11")
    config(host, "db1", "00:16:3e:50:02:00", "10.50.0.12")
    web1 = host.start("web1", ("10.50.0.11", "fd50::11"))
    db1 = host.start("db1", ("10.50.0.12",))
    stage.claim("vif-bridge succeeded for both VMs", all(r.returncode == 0 for g in (web1, db1) for r in g.scripts))
    stage.screen(host, "xl", "list")
    stage.screen(host, "xenbw-addvm", "web1", "--limit", "20MB", "--reset-day", "15")
    stage.screen(host, "xenbw-addvm", "db1", "--limit", "500GB", "--count", "out")
    return web1, db1


def config(host: Host, name: str, mac: str, *ips: str) -> None:
    """A guest's config file for xl."""
    vif = f"mac={mac}, bridge=xenbr0, ip={' '.join(ips)}"
    (host.etc / f"{name}.cfg").write_text(f'name = "{name}"\nmemory = 512\nvif = [ "{vif}" ]\n')


def traffic(stage: Stage, host: Host, web1: Guest, db1: Guest) -> None:
    stage.step("Traffic flows, and xenbw meters it to the byte")
    web1.receive(8 * MB)
    web1.send(2 * MB, to=db1)
    counted = until(lambda: host.usage("web1") == web1.counters())
    inside = web1.counters()
    stage.say(f"web1's own network card counted {inside.in_bytes:,} bytes in and {inside.out_bytes:,} out")
    stage.claim("xenbw counted the same bytes", counted)
    stage.screen(host, "xenbw", "list")


def warning(stage: Stage, host: Host, web1: Guest) -> None:
    stage.step("web1 passes 80 % of its allowance")
    web1.receive(7 * MB)
    stage.claim("xenbw warns, and blocks nothing", until(lambda: host.show("web1")["state"] == "warned"))
    stage.claim("web1's ping to the outside is answered", web1.ping("10.50.0.2", timeout=1))


def over(stage: Stage, host: Host, web1: Guest, db1: Guest) -> None:
    stage.step("web1 goes over its allowance and is null-routed")
    crossing = time.monotonic()
    web1.receive(5 * MB)
    blocked = until(lambda: host.blocked("10.50.0.11"))
    stage.claim(f"the null routes are in place {time.monotonic() - crossing:.1f} s after this traffic began", blocked)
    silent = not any(web1.ping(to, timeout=0.2) for to in ("10.50.0.1", "10.50.0.2", db1.address()))
    stage.claim("web1's pings to dom0, to the outside and to db1 are no longer answered", silent)
    stage.claim("its IPv6 ping is not answered either", not web1.ping("fd50::2", timeout=0.2))
    stage.claim("db1 is not affected", db1.ping("10.50.0.2"))
    stage.screen(host, "iptables-legacy", "-S", "XENBW")
    stage.screen(host, "xenbw", "list")


def restart(stage: Stage, host: Host, web1: Guest) -> None:
    stage.step("web1 restarts with a new domid and a new vif, and still no packet gets through")
    before = web1.domid
    with Capture(host.outside) as wire:
        web1.reboot()
        web1.send(MB, timeout=0.1)
        web1.ping("10.50.0.2", count=3, timeout=0.1)
        packets = wire.sources().count(IPv4Address("10.50.0.11"))
    stage.say(f"domain {before} is now domain {web1.domid}; it sent as much as it could")
    stage.claim(f"a capture outside saw {packets} packets from web1", packets == 0)


def dead_daemon(stage: Stage, host: Host, web1: Guest) -> None:
    stage.step("The daemon is killed, the firewall is flushed, web1 restarts: the hook alone blocks it")
    host.kill_daemon()
    web1.stop()
    host.run(["iptables-legacy", "-F"], check=True)
    with Capture(host.outside) as wire:
        web1.start()
        web1.ping("10.50.0.2", count=3, timeout=0.1)
        packets = wire.sources().count(IPv4Address("10.50.0.11"))
    stage.claim(f"a capture outside saw {packets} packets from web1", packets == 0)
    host.start_daemon()


def raised(stage: Stage, host: Host, web1: Guest) -> None:
    stage.step("The customer buys more, and the admin raises the allowance")
    stage.screen(host, "xenbw-addvm", "web1", "--limit", "1TB")
    stage.claim("web1 is released at once", until(lambda: web1.reaches("10.50.0.2")))
    stage.claim("no iptables rule is left", not any("XENBW" in rule for rule in host.rules()))
    stage.screen(host, "xenbw", "show", "web1")


def unattended(stage: Stage, host: Host, web1: Guest) -> None:
    stage.step("The daemon is killed again. web1 uses up a new allowance, and the kernel alone holds it")
    stage.screen(host, "xenbw-addvm", "web1", "--limit", "22MB")
    host.kill_daemon()
    stage.claim("web1 still has its network", web1.reaches("10.50.0.2"))
    web1.send(4 * MB)
    refused = not web1.ping("10.50.0.2", timeout=0.2)
    web1.reboot()
    stage.claim("no frame passes any more, also after a restart", refused and not web1.ping("10.50.0.2", timeout=0.2))
    host.start_daemon()
    stage.claim("back again, the daemon null-routes web1", until(lambda: host.blocked("10.50.0.11")))
    used = sum(host.usage("web1"))
    stage.claim(f"web1 used {used:,} of 22,000,000 bytes, and not one more", 22 * MB - FRAME < used <= 22 * MB)
    stage.screen(host, "xenbw", "show", "web1")
    host.xenbw("addvm", "web1", "--limit", "1TB")
    stage.claim("web1 is released by a raise", until(lambda: web1.reaches("10.50.0.2")))


def throttled(stage: Stage, host: Host, db1: Guest) -> None:
    stage.step("db1 uses up its allowance too; its action is to throttle")
    stage.screen(host, "xenbw-addvm", "db1", "--limit", "5MB", "--action", "throttle", "--rate", f"{RATE}Mbit")
    db1.send(6 * MB)
    stage.claim("db1 is throttled and not blocked", until(lambda: host.show("db1")["state"] == "throttled"))
    for way, source, target, address in (
        ("from", db1.namespace, host.outside, "10.50.0.2"),
        ("to", host.outside, db1.namespace, db1.address()),
    ):
        got = stream(source, target, address, seconds=4, warm_up=3) * 8 / MB
        # A busy machine may have no time for more, and what it did not take in a second comes in the next.
        stage.claim(f"one TCP stream {way} it gets {got:.1f} of {RATE} Mbit/s", 0.6 * RATE <= got <= 1.3 * RATE)


def reassigned(stage: Stage, host: Host, web1: Guest) -> None:
    stage.step("The admin blocks web1 and shuts it down, and a new VM gets its address")
    stage.screen(host, "xenbw", "block", "web1", "--reason", "unpaid")
    web1.stop()
    stage.claim("the address stays blocked while no other VM has it", host.blocked("10.50.0.11"))
    shop = host.start("shop", ("10.50.0.11",))
    stage.claim("the new VM has a network from its first packet", shop.ping("10.50.0.2", timeout=1))
    stage.claim("the address is no longer blocked", not host.blocked("10.50.0.11"))
    stage.screen(host, "xenbw", "list")
    stage.screen(host, "xenbw", "status")


if __name__ == "__main__":
    try:
        sys.exit(main())
    except subprocess.CalledProcessError as error:
        sys.exit(f"demo: {error}\n{error.stdout}{error.stderr}")
