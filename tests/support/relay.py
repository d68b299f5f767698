"""A unix socket that leads to a TCP port of this namespace, so that a program in another one reaches a server here."""

from __future__ import annotations

import contextlib
import socket
import threading
from pathlib import Path
from typing import Self
from urllib.parse import quote_plus


class Relay:
    """`with Relay(folder, "127.0.0.1:27017") as relay`: a MongoDB client anywhere finds the server at `relay.uri`.

    A server that hangs hangs here too: its kernel takes the connection and nobody answers.
    """

    def __init__(self, folder: Path, host: str) -> None:
        name, _, port = host.partition(":")
        self._target = (name, int(port))
        self._path = folder / "mongod.sock"
        self._server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)

    @property
    def uri(self) -> str:
        return f"mongodb://{quote_plus(str(self._path))}/?directConnection=true"

    def __enter__(self) -> Self:
        self._server.bind(str(self._path))
        self._server.listen()
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._server.accept()
                try:
                    far = socket.create_connection(self._target)
                except OSError:
                    near.close()
                    continue
                for source, sink in ((near, far), (far, near)):
                    threading.Thread(target=_carry, args=(source, sink), daemon=True).start()


def _carry(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    for end in (source, sink):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
