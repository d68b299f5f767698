"""Names of the tenants' pages, which nobody can guess: HMACs by a key of this host."""

from __future__ import annotations

import hmac
import os
import re
import secrets
from contextlib import suppress
from pathlib import Path

from xenbw.cli.refusal import refused
from xenbw.errors import XenbwError
from xenbw.model import VM
from xenbw.units import format_time

TENANTS = "t"
"""The folder, below that of the report, in which the tenants' pages are."""
_KEY = re.compile(r"[0-9a-f]{64}\n?", re.ASCII)


def key_path(ledger: Path) -> Path:
    """The key's file: beside the ledger, so that a second instance has its own."""
    return ledger.with_name("report.key")


def key_of(path: Path) -> bytes:
    """The key in this file, which only root can read; made if there is none yet. Raises XenbwError."""
    try:
        if not path.exists():
            _make(path)
        text = path.read_text(encoding="ascii", errors="replace")
    except OSError as error:
        raise refused(path, error) from None
    if not _KEY.fullmatch(text):
        raise XenbwError(f"{path}: not a key", "remove it: a new one is made, and every tenant's page gets a new name")
    return bytes.fromhex(text)


def _make(path: Path) -> None:
    """Write a new key, unless another process just did."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    with suppress(FileNotFoundError):
        fresh.unlink()
    try:
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "w") as file:
            file.write(f"{secrets.token_hex(32)}\n")
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileExistsError):
            os.link(fresh, path)
    finally:
        fresh.unlink(missing_ok=True)


def stem(key: bytes, vm: VM) -> str:
    """The name of the VM's files for its tenant, without what tells HTML from JSON: HMAC-SHA256 in hexadecimal of the
    VM's name and of when it was found. So a later VM of that name, which may be another tenant's, has another page."""
    text = f"{vm.name}\0{format_time(vm.found_at)}"
    return hmac.new(key, text.encode(errors="backslashreplace"), "sha256").hexdigest()
