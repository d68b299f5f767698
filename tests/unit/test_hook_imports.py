"""Every start of a VM pays for the hook's imports: they have a budget, in modules and not in milliseconds."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support.host import REPO

# Each of them takes longer to import than the hook takes to do its work, or brings others that do.
_COSTLY = (
    "argparse asyncio bson contextlib dataclasses email enum http importlib.metadata inspect ipaddress iptc json"
    " logging pathlib pymongo pyudev pyxs re sdnotify select selectors signal socket ssl subprocess tempfile threading"
    " tomllib typing urllib zoneinfo"
)
_OURS, _ALL = 30, 70


@pytest.fixture(scope="module")
def imported() -> set[str]:
    """What `import xenbw.hook.call` brings into an interpreter that was started as the hook starts it."""
    program = (
        "import sys; before = set(sys.modules); sys.path.append(sys.argv[1]); import xenbw.hook.call; "
        "print(*(set(sys.modules) - before))"
    )
    argv = [sys.executable, "-IS", "-c", program, str(REPO)]
    return set(subprocess.run(argv, capture_output=True, text=True, check=True).stdout.split())


def test_the_hook_imports_nothing_costly(imported: set[str]) -> None:
    assert imported & set(_COSTLY.split()) == set()


def test_the_hook_imports_no_more_modules_than_its_budget(imported: set[str]) -> None:
    assert len([name for name in imported if name.partition(".")[0] == "xenbw"]) <= _OURS
    assert len(imported) <= _ALL
