"""Loads python-iptables, without loading setuptools.

Debian 12's python-iptables imports distutils for one function. Where python3-setuptools is installed, it loads all of
setuptools in its place (_distutils_hack), which costs the daemon 17 MB and each of its starts 0.2 s (measured). Python
has a distutils of its own until 3.12, and Debian 13's python-iptables needs none.
"""

from __future__ import annotations

import sys
import warnings
from typing import Any


def load() -> Any:
    """The module iptc. Raises ImportError, and errors of its own without iptables' libraries."""
    replacer = sys.modules.get("_distutils_hack")
    if replacer is not None and sys.version_info < (3, 12):
        replacer.remove_shim()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of distutils
        import iptc
    return iptc
