"""Access to a test's mongod: logins, and the certificates of a small authority."""

from __future__ import annotations

import secrets
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus, urlencode

from pymongo import MongoClient

from tests.support.mailserver import make_authority


def connect(uri: str, **options: Any) -> MongoClient[dict[str, Any]]:
    """A client whose documents are dicts; `options` are MongoClient's."""
    client: MongoClient[dict[str, Any]] = MongoClient(uri, **options)
    return client


@dataclass(frozen=True)
class User:
    """A login and the database that knows it."""

    name: str
    password: str
    database: str


ADMIN = User("admin", "of everything", "admin")
KEEPER = User("xenbw", "p@ss/w:rd?100%", "xenbw")  # readWrite on its database and nothing else


@dataclass(frozen=True)
class Certificates:
    """PEM files: the authority, the server's certificate with its key, and a client's, which the server requires."""

    authority: Path
    server: Path
    client: Path

    @classmethod
    def make(cls, folder: Path) -> Certificates:
        """Certificates for localhost and 127.0.0.1, good for two days."""
        authority, _ = make_authority(folder)
        return cls(authority, _issue(folder, "server"), _issue(folder, "client"))


@dataclass(frozen=True)
class Access:
    """With a `key_file`, clients must log in as ADMIN or KEEPER; with `certificates`, they must speak TLS."""

    key_file: Path | None = None
    certificates: Certificates | None = None

    @classmethod
    def make(cls, folder: Path, *, login: bool = False, tls: bool = False) -> Access:
        """Write the files that logins and TLS need into `folder`."""
        key_file = folder / "key" if login else None
        if key_file:
            key_file.touch(mode=0o600)  # mongod refuses a key that others can read
            key_file.write_text(secrets.token_hex(32))
        return cls(key_file, Certificates.make(folder) if tls else None)

    def server_options(self) -> list[str]:
        """The arguments that start mongod."""
        options = ["--keyFile", str(self.key_file)] if self.key_file else []
        if self.certificates:
            options += ["--tlsMode", "requireTLS", "--tlsCAFile", str(self.certificates.authority)]
            options += ["--tlsCertificateKeyFile", str(self.certificates.server)]
        return options

    def uri(self, hosts: Sequence[str], user: User | None, **options: str) -> str:
        """How `user` connects to the servers; without a user there is no login."""
        login = ""
        if user and self.key_file:
            login = f"{quote_plus(user.name)}:{quote_plus(user.password)}@"
            options["authSource"] = user.database
        if self.certificates:
            options |= {"tls": "true", "tlsCAFile": str(self.certificates.authority)}
            options["tlsCertificateKeyFile"] = str(self.certificates.client)
        return f"mongodb://{login}{','.join(hosts)}/?{urlencode(options)}"

    def create_users(self, host: str, members: int = 1) -> None:
        """Make ADMIN and KEEPER on an empty server, which lets local clients create the first user unasked.

        Waits until as many `members` of its replica set know them.
        """
        if not self.key_file:
            return
        known = {"w": members}
        with connect(self.uri([host], None, directConnection="true")) as client:
            client[ADMIN.database].command(
                "createUser", ADMIN.name, pwd=ADMIN.password, roles=["root"], writeConcern=known
            )
        with connect(self.uri([host], ADMIN, directConnection="true")) as client:
            client[KEEPER.database].command(
                "createUser", KEEPER.name, pwd=KEEPER.password, roles=["readWrite"], writeConcern=known
            )


OPEN = Access()


def _issue(folder: Path, name: str) -> Path:
    """A certificate and its key in one file, signed by the authority that make_authority left in `folder`."""
    certificate, key, both = (folder / f"{name}{suffix}" for suffix in (".crt", ".key", ".pem"))
    signer = ["-CA", str(folder / "ca.pem"), "-CAkey", str(folder / "key.pem")]
    options = ["-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    subject = ["-subj", f"/CN=xenbw {name}", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    files = ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run(["openssl", "req", *signer, *options, *subject, *files], check=True, capture_output=True)
    both.write_text(certificate.read_text() + key.read_text())
    return both
