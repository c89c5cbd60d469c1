"""A TCP proxy to PostgreSQL that cuts a connection at its COMMIT: the server commits and the client never hears of it,
or the COMMIT never arrives.

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
_armed: set[str] = set()
# The signal after which the next COMMIT lands without an answer, is lost, or is the last thing that passes the proxy.
_SIGNALS = {"landed": signal.SIGUSR1, "lost": signal.SIGUSR2, "away": signal.SIGHUP}


@contextlib.contextmanager
def proxy_to(port: int) -> Iterator[tuple[int, Callable[[str], None]]]:
    """The port of a proxy, and a function after which it cuts the next connection that commits a DuckLake snapshot.

    The function's argument says whether that commit has "landed" or is "lost"; "away": it has landed, and the proxy
    lets nothing through from then on.

    The process prints a line when it has cut one; on leaving, exactly as many cuts as were asked for have been made.
    """
    command = [sys.executable, "-m", "tests.integration.cutting_proxy", str(port)]
    n_asked, made, lock = 0, [], threading.Lock()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None

        def cut(fate: str = "landed") -> None:
            nonlocal n_asked
            assert process.stdout is not None
            with lock:
                n_asked += 1
                process.send_signal(_SIGNALS[fate])
                while (line := process.stdout.readline()) != "armed\n":
                    made.append(line)

        try:
            yield int(process.stdout.readline()), cut
            # The client hears of a cut before the server has got the COMMIT: wait until both are done.
            made += [process.stdout.readline() for _ in range(n_asked - len(made))]
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
            if _armed - {"gone"} and writes and _COMMIT.search(request):
                fate = _armed.pop()
                if fate == "away":
                    _armed.add("gone")
                client.shutdown(socket.SHUT_RDWR)
                if fate != "lost":
                    server.sendall(request)
                # The server commits before it sees that nobody listens any more.
                server.shutdown(socket.SHUT_WR)
                print("cut", flush=True)
                return
            # The next transaction on this connection may only read.
            writes = writes and not _COMMIT.search(request)
            server.sendall(request)


def _answer(server: socket.socket, client: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while answer := server.recv(1 << 16):
            client.sendall(answer)


def _arm(number: int, _: object) -> None:
    _armed.add(next(fate for fate, known in _SIGNALS.items() if known == number))
    print("armed", flush=True)


def main(port: int) -> None:
    for number in _SIGNALS.values():
        signal.signal(number, _arm)
    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)
    while True:
        client, _ = listener.accept()
        if "gone" in _armed:
            client.close()
            continue
        threading.Thread(target=_forward, args=(client, port), daemon=True).start()


if __name__ == "__main__":
    main(int(sys.argv[1]))
