"""What takes all blocks away when the package is removed: shell from the registry, in the package's postrm."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.support.host import REPO
from xenbw.blocks import registry

POSTRM = REPO / "debian" / "xenbw.postrm"


def postrm() -> str:
    """The script as the build writes it (debian/rules)."""
    text = POSTRM.read_text()
    assert text.count("\n#UNDO#\n") == 1
    return text.replace("#UNDO#\n", registry.undo())


def test_each_block_tells_how_it_is_taken_away() -> None:
    undo = registry.undo()
    told = [line[2:] for line in undo.splitlines() if line.startswith("# ") and line[2:] in registry.REGISTRY]
    assert [*told, "opening"] == list(registry.REGISTRY)


def test_the_script_is_sound(tmp_path: Path) -> None:
    script = tmp_path / "postrm"
    script.write_text(postrm())
    subprocess.run(["shellcheck", script], check=True)
