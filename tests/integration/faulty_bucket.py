"""An HTTP proxy before the S3 server of the tests that fails at random, by a seed, as an overloaded store does.

It answers 500, 503 and 429, cuts a connection in the middle of an upload or of an answer, and loses answers to requests
that the server has carried out. A process of its own, because DuckDB may hold Python's global lock while it waits.
"""

import contextlib
import http.client
import json
import random
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

FAULTS = ("500", "503", "429", "cut upload", "cut answer", "lost answer")
_HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding"}


@contextlib.contextmanager
def faulty_proxy(port: int, *, share: float, seed: int = 1) -> Iterator[tuple[int, Counter[str]]]:
    """The port of a proxy to the server at `port`, where `share` of the requests fail, and the faults by kind, which
    are complete on leaving."""
    command = [sys.executable, "-m", "tests.integration.faulty_bucket", str(port), str(share), str(seed)]
    faults: Counter[str] = Counter()
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None and process.stdout is not None
        try:
            yield int(process.stdout.readline()), faults
        finally:
            process.stdin.close()
            faults.update(json.loads(process.stdout.read()))


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: "_Proxy"

    def answer(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        fault = self.server.next_fault(has_body=length > 0)
        if fault == "cut upload":
            self.rfile.read(length // 2)
            return self._cut()
        body = self.rfile.read(length)
        if fault is not None and fault.isdigit():
            return self._send(int(fault), [("Content-Type", "application/xml")], _error(fault))
        status, headers, content = self._forward(body)
        if fault == "lost answer":
            return self._cut()
        self._send(status, headers, content, whole=fault != "cut answer")
        return None

    def _forward(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        """The server's answer. The headers go there as they came, the host too: they are signed."""
        connection = http.client.HTTPConnection("127.0.0.1", self.server.target, timeout=60)
        with contextlib.closing(connection):
            connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in _HOP_BY_HOP:
                    connection.putheader(name, value)
            connection.endheaders(body)
            answer = connection.getresponse()
            return answer.status, answer.getheaders(), answer.read()

    def _send(self, status: int, headers: list[tuple[str, str]], content: bytes, *, whole: bool = True) -> None:
        self.send_response_only(status)
        lengths = [value for name, value in headers if name.lower() == "content-length"]
        for name, value in headers:
            if name.lower() not in _HOP_BY_HOP | {"content-length"}:
                self.send_header(name, value)
        # The answer to HEAD has the length of a body that does not come.
        self.send_header("Content-Length", lengths[0] if lengths and self.command == "HEAD" else str(len(content)))
        self.end_headers()
        self.wfile.write(content if whole else content[: len(content) // 2])
        if not whole:
            self._cut()

    def _cut(self) -> None:
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the tests count the faults."""


for _method in ("GET", "HEAD", "PUT", "POST", "DELETE"):
    setattr(_Handler, f"do_{_method}", _Handler.answer)


class _Proxy(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, target: int, share: float, seed: int):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.target, self._share, self._random = target, share, random.Random(seed)
        self._lock, self.faults = threading.Lock(), Counter[str]()

    def next_fault(self, *, has_body: bool) -> str | None:
        with self._lock:
            if self._random.random() >= self._share:
                return None
            # The kind that was met least, so that every kind is met: few requests bring a body.
            fault = min((name for name in FAULTS if has_body or name != "cut upload"), key=self.faults.__getitem__)
            self.faults[fault] += 1
            return fault

    def handle_error(self, *_: object) -> None:
        """Nothing: a client may go away."""


def _error(status: str) -> bytes:
    code = {"500": "InternalError", "503": "SlowDown", "429": "TooManyRequests"}[status]
    return f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>made for a test</Message></Error>".encode()


def main(target: int, share: float, seed: int) -> None:
    proxy = _Proxy(target, share, seed)
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    print(proxy.server_port, flush=True)
    sys.stdin.read()
    print(json.dumps(proxy.faults))


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]))
