"""A TCP proxy to PostgreSQL that loses the answer to a COMMIT: the server commits, the client never hears of it.

A process of its own, because DuckDB may hold Python's global lock while it waits for the server.
"""

import contextlib
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator

_SNAPSHOT = re.compile(rb"INSERT INTO \S*ducklake_snapshot\W")
_COMMIT = re.compile(rb"\bCOMMIT\b")
_armed = threading.Event()


@contextlib.contextmanager
def proxy_to(port: int) -> Iterator[tuple[int, Callable[[], None]]]:
    """The port of a proxy, and a function after which it cuts the next connection that commits a DuckLake snapshot.

    The process prints a line when it has cut one; on leaving, exactly as many cuts as were asked for have been made.
    """
    command = [sys.executable, "-m", "tests.integration.cutting_proxy", str(port)]
    n_asked = 0
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None

        def cut() -> None:
            nonlocal n_asked
            n_asked += 1
            process.send_signal(signal.SIGUSR1)
            assert process.stdout is not None and process.stdout.readline() == "armed\n"

        try:
            yield int(process.stdout.readline()), cut
            # The client hears of a cut before the server has got the COMMIT: wait until both are done.
            made = [process.stdout.readline() for _ in range(n_asked)]
        finally:
            process.terminate()
            left = process.stdout.read()
    assert [*made, left] == ["cut\n"] * n_asked + [""]


def _forward(client: socket.socket, port: int) -> None:
    """Requests to the server; the answers go back on another thread."""
    writes = False
    with client, socket.create_connection(("127.0.0.1", port)) as server, contextlib.suppress(OSError):
        threading.Thread(target=_answer, args=(server, client), daemon=True).start()
        while request := client.recv(1 << 16):
            writes = writes or _SNAPSHOT.search(request) is not None
            if _armed.is_set() and writes and _COMMIT.search(request):
                _armed.clear()
                client.shutdown(socket.SHUT_RDWR)
                server.sendall(request)
                # The server commits before it sees that nobody listens any more.
                server.shutdown(socket.SHUT_WR)
                print("cut", flush=True)
                return
            server.sendall(request)


def _answer(server: socket.socket, client: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while answer := server.recv(1 << 16):
            client.sendall(answer)


def _arm(*_: object) -> None:
    _armed.set()
    print("armed", flush=True)


def main(port: int) -> None:
    signal.signal(signal.SIGUSR1, _arm)
    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)
    while True:
        client, _ = listener.accept()
        threading.Thread(target=_forward, args=(client, port), daemon=True).start()


if __name__ == "__main__":
    main(int(sys.argv[1]))
