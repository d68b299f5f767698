"""A stand-in for nft(8) in a dom0: it changes or refuses the text that it is handed, and then runs the real one."""

from __future__ import annotations

import shutil

from tests.support.dom0 import Dom0


def replace_nft(host: Dom0, body: str) -> None:
    """Let dom0's nft run this piece of shell before it hands $text on. Calls without a text are not changed."""
    real = shutil.which("nft")
    script = f"""#!/bin/sh
[ "$*" = "-f -" ] || exec {real} "$@"
text=$(cat)
{body}
printf '%s\\n' "$text" | {real} -f -
"""
    (host.bin_dir / "nft").write_text(script)
    (host.bin_dir / "nft").chmod(0o755)


def without_limits(host: Dom0) -> None:
    """Let dom0's nft refuse limit objects, as on a kernel that has none."""
    refuse = 'echo "Error: Could not process rule: Operation not supported" >&2; exit 1'
    replace_nft(host, f'case $text in *"add limit"*) {refuse} ;; esac')
