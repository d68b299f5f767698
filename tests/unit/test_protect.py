"""The addresses that are never blocked: from the host and its resolver, and kept if one of them fails."""

from __future__ import annotations

import subprocess
import sys
from contextlib import closing
from ipaddress import ip_network
from pathlib import Path

import pytest

from tests.support.books import open_ledger
from xenbw.book.servers import servers
from xenbw.enforce.protect import Protected, last_known
from xenbw.model import Network
from xenbw.runner import run

REPO = Path(__file__).resolve().parents[2]
DOM0, GATEWAY, HOP, RESOLVER = "192.0.2.1/32", "192.0.2.254/32", "fe80::1/128", "192.0.2.53/32"
IP = """[ -e "$0.broken" ] && { echo 'Cannot open netlink socket' >&2; exit 1; }
[ -e "$0.garbled" ] && { echo '[{"addr_info": 7}]'; exit 0; }
[ -e "$0.hung" ] && exec sleep 30
case "$*" in
    "-json addr") echo '[{}, {"ifname": "xenbr0", "addr_info": [{"local": "192.0.2.1"}]}]' ;;
    "-json route") echo '[{"dst": "default", "gateway": "192.0.2.254"}, {"dst": "192.0.2.0/24"}]' ;;
    "-6 -json route") echo '[{"dst": "default", "nexthops": [{"gateway": "fe80::1"}]}]' ;;
esac
"""


@pytest.fixture
def ip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for iproute2."""
    program = tmp_path / "bin" / "ip"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\n{IP}")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    return program


@pytest.fixture
def resolv_conf(tmp_path: Path) -> Path:
    path = tmp_path / "resolv.conf"
    path.write_text("search example.org\nnameserver 192.0.2.53\nnameserver fe80::1%eth0\n")
    return path


@pytest.fixture
def known(ip: Path, resolv_conf: Path) -> Protected:
    return Protected(run, (), resolv_conf)


def nets(*words: str) -> set[Network]:
    return {ip_network(word) for word in words}


HERE = nets(DOM0, GATEWAY, HOP, RESOLVER)


def test_a_hosts_addresses_gateways_and_resolvers_are_protected(known: Protected) -> None:
    known.refresh([])
    assert known.networks == HERE
    assert known.problems == ()


@pytest.mark.parametrize("fault", ["broken", "garbled", "hung"])
def test_a_failing_iproute2_removes_no_address_and_is_reported_until_it_works_again(
    known: Protected, ip: Path, fault: str
) -> None:
    known.refresh([])
    marker = ip.with_name(f"ip.{fault}")
    marker.touch()
    known.refresh([])
    assert known.networks == HERE
    sources = [problem.partition(":")[0] for problem in known.problems]
    assert sources == ["ip -json addr", "ip -json route", "ip -6 -json route"]
    assert all("stay protected" in problem for problem in known.problems)
    marker.unlink()
    known.refresh([])
    assert (known.networks, known.problems) == (HERE, ())


def test_the_last_daemon_s_list_is_kept_until_every_source_has_answered(
    ip: Path, resolv_conf: Path, tmp_path: Path
) -> None:
    with closing(open_ledger(tmp_path)) as ledger:
        assert last_known(ledger) == set()
        ledger.set_meta("protected", "198.51.100.7/32 2001:db8::/64")
        known = Protected(run, last_known(ledger), resolv_conf)
    before = nets("198.51.100.7/32", "2001:db8::/64")
    ip.with_name("ip.broken").touch()
    known.refresh([])
    assert known.networks == before | nets(RESOLVER, HOP)
    ip.with_name("ip.broken").unlink()
    known.look_here()  # hosts have not been looked up yet
    assert known.networks == before | HERE
    known.refresh([])
    assert known.networks == HERE


def test_an_address_that_the_host_no_longer_has_is_not_protected(known: Protected, ip: Path) -> None:
    known.refresh([])
    ip.write_text("#!/bin/sh\necho '[]'\n")
    known.refresh([])
    assert known.networks == nets(RESOLVER, HOP)


def test_a_resolver_that_does_not_run_yet_removes_no_address(known: Protected, resolv_conf: Path) -> None:
    known.refresh([])
    resolv_conf.unlink()
    resolv_conf.symlink_to("run/systemd/resolve/stub-resolv.conf")
    known.refresh([])
    assert known.networks == HERE
    assert len(known.problems) == 1
    resolv_conf.unlink()
    known.refresh([])  # a host without the file asks its own resolver
    assert (known.networks, known.problems) == (nets(DOM0, GATEWAY, HOP), ())


def test_every_address_of_a_helper_is_protected_and_literals_need_no_resolver(known: Protected) -> None:
    known.refresh(["localhost", "198.51.100.9", "2001:db8::25", "fe80::25%nosuch"])
    more = nets("127.0.0.1/32", "198.51.100.9/32", "2001:db8::25/128", "fe80::25/128")
    assert known.networks >= HERE | more
    assert known.problems == ()
    known.refresh([])
    assert known.networks == HERE


def test_a_helper_that_cannot_be_looked_up_keeps_its_addresses_and_is_reported(ip: Path, resolv_conf: Path) -> None:
    known = Protected(run, nets("198.51.100.25/32"), resolv_conf)
    known.refresh(["mx.invalid", "198.51.100.9"])
    assert known.networks == HERE | nets("198.51.100.25/32", "198.51.100.9/32")
    (problem,) = known.problems
    assert problem.startswith("host mx.invalid: ")


@pytest.mark.parametrize("host", ["mail..example.com", f"{64 * 'a'}.example.com"])
def test_a_helper_whose_name_no_host_can_have_is_reported_and_the_other_sources_are_asked(
    ip: Path, resolv_conf: Path, host: str
) -> None:
    known = Protected(run, nets("198.51.100.25/32"), resolv_conf)
    known.refresh([host, "198.51.100.9"])
    assert known.networks == HERE | nets("198.51.100.25/32", "198.51.100.9/32")
    assert known.problems == (f"host {host}: not a host name; the addresses known before stay protected",)


@pytest.mark.parametrize(
    ("uri", "hosts"),
    [
        ("mongodb://db1", ("db1",)),
        ("mongodb://u:p%40@db1:27017,db2:27018/x?replicaSet=rs0", ("db1", "db2")),
        ("mongodb://[2001:db8::5]/", ("2001:db8::5",)),
        ("mongodb://[2001:db8::5]:27017,db2/?replicaSet=rs0", ("2001:db8::5", "db2")),
        ("mongodb://%2Ftmp%2Fmongodb-27017.sock/", ()),
        ("mongodb://db1/?tls=true&tlsCAFile=/nosuch.pem", ("db1",)),
    ],
)
def test_the_books_address_names_its_servers(uri: str, hosts: tuple[str, ...]) -> None:
    assert servers(uri) == hosts


def test_servers_of_the_book_are_protected_also_as_ipv6_literals(known: Protected) -> None:
    known.refresh([], "mongodb://[2001:db8::5]:27017,198.51.100.5/?replicaSet=rs0")
    assert known.networks == HERE | nets("2001:db8::5/128", "198.51.100.5/32")


def test_a_bad_address_of_the_book_removes_no_address_and_is_reported(ip: Path, resolv_conf: Path) -> None:
    known = Protected(run, nets("198.51.100.5/32"), resolv_conf)
    known.refresh(["198.51.100.9"], "mongodb://[2001:db8::5")
    assert known.networks == HERE | nets("198.51.100.5/32", "198.51.100.9/32")
    (problem,) = known.problems
    assert problem.startswith("the servers of [mongodb] uri are not known")


def test_an_address_of_the_book_that_needs_dnspython_says_so_if_it_is_missing() -> None:
    program = (
        "import sys; sys.modules['dns'] = None\n"
        "from xenbw.errors import XenbwError\n"
        "from xenbw.book.servers import servers\n"
        "try: servers('mongodb+srv://book.example.org/')\n"
        "except XenbwError as error: print(error)\n"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=REPO).stdout
    assert "apt install python3-dnspython" in said


_AT_ONCE = """
import sys, threading, time
from xenbw.book import driver
from xenbw.book.servers import servers

class Slow:  # as on a busy dom0
    def find_spec(self, name, path=None, target=None):
        if name.startswith(("bson.", "pymongo.")):
            time.sleep(0.002)

sys.meta_path.insert(0, Slow())
done = []

def book():
    driver.load()
    from xenbw.book.book import Book
    done.append(Book)

def addresses():
    done.append(servers("mongodb://db1"))

threads = [threading.Thread(target=want) for want in (book, addresses)]
for one in threads:
    one.start()
    time.sleep(float(sys.argv[1]))
for one in threads:
    one.join()
print(len(done))
"""


def test_two_threads_that_import_the_driver_at_once_both_get_all_of_it() -> None:
    for head_start in range(0, 60, 15):
        argv = [sys.executable, "-c", _AT_ONCE, str(head_start / 1000)]
        said = subprocess.run(argv, capture_output=True, text=True, check=True, cwd=REPO)
        assert (said.stdout, said.stderr) == ("2\n", "")
