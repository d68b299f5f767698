"""nft refuses a batch with the chains of many vifs, because of one of them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from xenbw.nft.chains import Chains, View
from xenbw.nft.port import Port

_NOTHING = View(
    {},
    frozenset(),
    frozenset(),
    {what: {} for what in ("in", "out", "flood", "refused-in", "refused-out")},
    frozenset(),
    [],
)


class _Nft:
    """Refuses batches that name one of these interfaces."""

    def __init__(self, *refused: str) -> None:
        self.refused, self.batches, self.laid = refused, 0, ""

    def apply(self, text: str) -> str | None:
        self.batches += 1
        if any(f'device "{name}"' in text for name in self.refused):
            return "no such device"
        self.laid += text
        return None


def _apart(nft: _Nft, ports: list[Port]) -> dict[Port, str]:
    tables = SimpleNamespace(apply=nft.apply, of=lambda: None)
    return Chains(cast("Any", tables))._lay_apart(ports, _NOTHING)


def _ports(count: int) -> list[Port]:
    return [Port(n, 0, 100 + n, f"vif{n}.0", "02:00:00:00:00:01") for n in range(1, count + 1)]


def test_all_others_get_their_chains_with_few_batches() -> None:
    nft, ports = _Nft("vif700.0"), _ports(1000)
    assert _apart(nft, ports) == {ports[699]: "no such device"}
    assert nft.batches < 30
    assert all(f'device "{port.interface}"' in nft.laid for port in ports if port.domid != 700)


def test_each_vif_that_is_refused_is_told() -> None:
    ports = _ports(5)
    refused = [port.interface for port in ports]
    assert _apart(_Nft(*refused), ports) == dict.fromkeys(ports, "no such device")


def test_without_a_foundation_no_vif_is_tried() -> None:
    nft = _Nft()
    nft.apply = lambda text: "no nft"  # type: ignore[method-assign]
    assert _apart(nft, _ports(3)) == dict.fromkeys(_ports(3), "no nft")
