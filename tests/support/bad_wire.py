"""A TCP wire between a site and the coordinator that a test may cut, slow down, or let through again."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

HOST = "127.0.0.1"
_PIECE = 2**14


@dataclass
class Wire:
    """What lies between; change its fields while it works.

    Attributes:
        to: port that it leads to.
        delay_s: that each piece waits.
        bytes_per_s: of each direction of each connection; 0 is as fast as it goes.
        port: where it begins.
        carried: bytes so far.
    """

    to: int
    delay_s: float = 0.0
    bytes_per_s: float = 0.0
    port: int = 0
    carried: int = 0
    _whole: bool = True
    _open: set[socket.socket] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def cut(self) -> None:
        """End all connections, and let none begin."""
        self._whole = False
        with self._lock:
            for one in self._open:
                with contextlib.suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)

    def mend(self) -> None:
        self._whole = True

    def serve(self, near: socket.socket) -> None:
        with contextlib.suppress(OSError), near:
            if not self._whole:
                return
            with socket.create_connection((HOST, self.to)) as far:
                with self._lock:
                    self._open |= {near, far}
                back = threading.Thread(target=self._pump, args=(far, near), daemon=True)
                back.start()
                self._pump(near, far)
                back.join()
                with self._lock:
                    self._open -= {near, far}

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(_PIECE):
                time.sleep(self.delay_s + (len(data) / self.bytes_per_s if self.bytes_per_s else 0.0))
                sink.sendall(data)
                self.carried += len(data)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)


@contextlib.contextmanager
def wire(to: int) -> Iterator[Wire]:
    """A wire to the port ``to`` of this machine, until the block ends."""
    listener = socket.create_server((HOST, 0))
    made = Wire(to, port=listener.getsockname()[1])

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = listener.accept()
                threading.Thread(target=made.serve, args=(near,), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield made
    finally:
        made.cut()
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(5)
