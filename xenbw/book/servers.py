"""The servers that the book's address names."""

from __future__ import annotations

import re

from xenbw.book import driver
from xenbw.errors import XenbwError


def servers(uri: str) -> tuple[str, ...]:
    """Names and IP addresses of the servers, as the driver reads the address. For mongodb+srv:// this asks the DNS, so
    it is not for the event loop's thread. Raises XenbwError."""
    driver.load()
    from pymongo.errors import PyMongoError
    from pymongo.uri_parser import parse_uri

    # With srvMaxHosts the driver picks some of the servers at random, each time others; 0 means all.
    everyone = re.sub(r"(?i)\bsrvMaxHosts=\d+", "srvMaxHosts=0", uri)
    try:
        nodes = parse_uri(everyone, validate=False)["nodelist"]
    except (PyMongoError, ValueError) as error:
        said = " ".join(str(error).split())[:300]
        missing = "dnspython" in said
        hint = "apt install python3-dnspython" if missing else "see docs/mongodb.md"
        raise XenbwError(f"the servers of [mongodb] uri are not known: {said}", hint) from None
    # A socket in the file system has a path and no port.
    return tuple(dict.fromkeys(host for host, port in nodes if port is not None))
