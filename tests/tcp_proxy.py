"""A TCP proxy in front of an HTTP server that cuts, freezes, slows and answers with errors of its own."""

from __future__ import annotations

import contextlib
import random
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass

_ERROR = b"HTTP/1.1 503 Slow Down\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


@dataclass(slots=True)
class Faults:
    """The probabilities of faults, for connections or pieces of data. They may change at any time.

    Args:
        errors: The probability that a connection is answered with 503 instead of being passed on.
        cuts: The probability that a connection is closed after at most ``cut_after`` bytes of the request.
        stalls: The probability that a connection stalls for ``stall_s`` seconds once.
        frozen: Whether the proxy accepts all requests and answers none.
        rate: The bytes per second and connection; 0 for no limit.
    """

    errors: float = 0.0
    cuts: float = 0.0
    stalls: float = 0.0
    stall_s: float = 1.0
    cut_after: int = 20_000
    frozen: bool = False
    rate: int = 0


class TcpProxy:
    """Passes connections on to a port of this machine; every connection carries one request.

    Attributes:
        port: The port of the proxy.
        counts: The number of times that each fault struck.
        watch: Called with the number of bytes of a client, before the proxy passes them on.
        on_error: Called before a 503 is answered.
    """

    def __init__(self, target: int, faults: Faults, seed: int = 0) -> None:
        self._target = target
        self.faults = faults
        self._random = random.Random(seed)
        self._ended = threading.Event()
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.counts = {"passed": 0, "error": 0, "cut": 0, "stall": 0, "frozen": 0}
        self.watch = self.on_error = lambda size: None
        self._start(self._accept)

    def close(self) -> None:
        self._ended.set()
        for one in [self._listener, *self._open]:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
        for thread in self._threads:
            thread.join()

    def _start(self, function, *args) -> None:
        thread = threading.Thread(target=function, args=args)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._ended.is_set():
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self._open.add(client)
            self._start(self._serve, client)

    def _serve(self, client: socket.socket) -> None:
        faults, draw = self.faults, self._random.random
        with contextlib.suppress(OSError), client:
            if faults.frozen:
                self._count("frozen")
                self._ended.wait()
                return
            fate = (
                "error" if draw() < faults.errors else "cut" if draw() < faults.cuts else "passed"
            )
            self._count(fate)
            stall = draw() < faults.stalls
            if stall:
                self._count("stall")
            if fate == "error":
                self._read_head(client)
                self.on_error(0)
                client.sendall(_ERROR)
                return
            budget = self._random.randrange(1, faults.cut_after) if fate == "cut" else None
            with socket.create_connection(("127.0.0.1", self._target)) as server:
                self._open.add(server)
                self._start(self._pump, server, client, None, False, False)
                self._pump(client, server, budget, stall, True)

    def _pump(
        self,
        source: socket.socket,
        sink: socket.socket,
        budget: int | None,
        stall: bool,
        watched: bool,
    ) -> None:
        faults = self.faults
        with contextlib.suppress(OSError):
            while data := source.recv(faults.rate // 10 if faults.rate else 1 << 16):
                if watched:
                    self.watch(len(data))
                if stall:
                    self._ended.wait(faults.stall_s)
                    stall = False
                if self.faults.frozen:
                    self._ended.wait()
                if faults.rate:
                    self._ended.wait(len(data) / faults.rate)
                sink.sendall(data if budget is None else data[:budget])
                if budget is not None:
                    budget -= len(data)
                    if budget <= 0:
                        break
        for one in (source, sink):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    @staticmethod
    def _read_head(client: socket.socket) -> None:
        client.settimeout(2.0)
        with contextlib.suppress(TimeoutError):
            while b"\r\n\r\n" not in client.recv(1 << 16):
                pass

    def _count(self, what: str) -> None:
        self.counts[what] += 1


@contextlib.contextmanager
def tcp_proxy(target: int, seed: int = 0, **faults: object) -> Iterator[TcpProxy]:
    """Run a proxy in front of a port until the block is left."""
    proxy = TcpProxy(target, Faults(**faults), seed)
    try:
        yield proxy
    finally:
        proxy.close()
