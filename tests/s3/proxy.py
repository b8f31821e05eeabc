"""A small proxy between the store and an S3 server that does to requests what networks and servers do, by a seeded schedule.

    500, 503   the server's or the balancer's error, in S3's own words; the request is not passed on
    slow       the reply comes late
    torn       the reply's head promises more than its body holds, and the connection closes
    lost       the request is done, and the connection closes without a reply
    reset      the connection closes, and the request is not passed on

Any other fault is an error's status and code in S3's words, such as `403 AccessDenied`.
"""

import http.client
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

FAULTS = ("500", "503", "slow", "torn", "lost", "reset")
SLOW_S = 0.1
ERROR = "<?xml version='1.0'?><Error><Code>{}</Code><Message>injected</Message></Error>"
CODES = {"500": "500 InternalError", "503": "503 SlowDown"}

Request = tuple[str, str]
"""Method, and path with query."""


@dataclass
class Proxy:
    """Stands before the server at `upstream`; what is set here takes effect with the next request."""

    upstream: str
    rate: float = 0.0
    """The share of requests that meet a fault."""
    kinds: Sequence[str] = FAULTS
    seed: int = 1
    away: bool = False
    """Nobody is there: every connection is closed."""
    once: list[tuple[Callable[[str, str], bool], str]] = field(default_factory=list)
    """Faults for the next request that each predicate (of method and path) holds for."""
    ignored: Sequence[str] = ()
    """Headers whose requests are said to be done whatever they ask, as by a server that does not know them."""
    seen: list[Request] = field(default_factory=list)
    done: Counter[str] = field(default_factory=Counter)
    """How often each fault was met."""

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._chance = random.Random(self.seed)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def fault(self, method: str, path: str) -> str:
        """What happens to a request; the same for the same seed and the same requests in order."""
        with self._lock:
            self.seen.append((method, path))
            if self.away:
                return "reset"
            kind = next((kind for matches, kind in self.once if matches(method, path)), "")
            if kind:
                self.once.remove(next(entry for entry in self.once if entry[0](method, path)))
            elif self._chance.random() < self.rate:
                kind = self._chance.choice(list(self.kinds))
            if kind:
                self.done[kind] += 1
            return kind

    def next(self, method: str, part: str, kind: str) -> None:
        """Let the next request of a method whose path holds a part meet a fault."""
        self.once.append((lambda m, p: m == method and part in p, kind))

    def count(self, method: str, part: str = "") -> int:
        return sum(m == method and part in p for m, p in self.seen)

    def reset(self) -> None:
        """Do no harm, and forget what was."""
        self.rate, self.kinds, self.away, self.ignored = 0.0, FAULTS, False, ()
        self.once.clear()
        self.seen.clear()
        self.done.clear()
        self._chance.seed(self.seed)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def _handler(proxy: Proxy) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # a head that waits for its body's packet costs 40 ms

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

        def _any(self) -> None:
            with suppress(ConnectionError):  # a client that has had enough
                self._meet()

        def _meet(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            kind = proxy.fault(self.command, self.path)
            if kind == "reset":
                self.close_connection = True
                return
            if kind and CODES.get(kind, kind)[0].isdigit():
                status, code = CODES.get(kind, kind).split(" ")
                self._answer(int(status), [("Content-Type", "application/xml")], ERROR.format(code).encode())
                return
            if any(name in self.headers for name in proxy.ignored):
                self._answer(200, [("ETag", '"00"')], b"")
                return
            status, headers, data = self._pass_on(body)
            if kind == "slow":
                time.sleep(SLOW_S)
            if kind == "lost":
                self.close_connection = True
                return
            self._answer(status, headers, data, torn=kind == "torn" and len(data) > 0)

        def _pass_on(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
            connection = http.client.HTTPConnection(urlsplit(proxy.upstream).netloc, timeout=30)
            connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in ("expect", "connection"):
                    connection.putheader(name, value)
            connection.endheaders(body)
            answer = connection.getresponse()
            data = answer.read()
            connection.close()
            return answer.status, [(n, v) for n, v in answer.getheaders() if n.lower() not in ("connection", "transfer-encoding")], data

        def _answer(self, status: int, headers: list[tuple[str, str]], data: bytes, *, torn: bool = False) -> None:
            self.send_response_only(status)
            named = {name.lower() for name, _ in headers}
            for name, value in headers:
                self.send_header(name, value)
            if "content-length" not in named and status not in (204, 304):
                self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data[: len(data) // 2] if torn else data)
            self.close_connection = self.close_connection or torn

    for method in ("GET", "PUT", "POST", "DELETE", "HEAD"):
        setattr(Handler, f"do_{method}", Handler._any)
    return Handler
