"""A Prefect server for one machine, started if none is configured, with its state in the lake's folder."""

import json
import os
import signal
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.error import URLError

from logitlake.flows.prefect_server.proxies import reach_this_machine
from logitlake.flows.prefect_server.tied_process import tied_command
from logitlake.flows.serve.live_runs import remove_leases
from logitlake.storage.errors import LogitlakeError, SettingsError

_START_SECONDS = 300
_STOP_SECONDS = 20
# Addresses to listen on all interfaces, and the address at which this machine reaches such a server.
_EVERY_INTERFACE = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}


@contextmanager
def local_server(home: Path, host: str, port: int) -> Iterator[str]:
    """Run a server for the time of the block; yields the URL of its API. `home` holds its database and its log.

    If the server ends before the block does, this process gets SIGTERM. Raises SettingsError if the port is taken,
    LogitlakeError with the end of the log if the server does not start or has ended.
    """
    url = api_url(host, port)
    reach_this_machine()
    if answers(url):
        raise SettingsError(
            f"schedule.port {port}: the port is in use; if that is your Prefect server, set PREFECT_API_URL={url}, "
            "otherwise choose another port"
        )
    home.mkdir(parents=True, exist_ok=True)
    remove_leases(home)
    log = home / "server.log"
    # It ends with this process, however that ends.
    command = tied_command("prefect", "server", "start", "--host", host, "--port", str(port))
    environment = {
        **os.environ,
        "PREFECT_HOME": str(home),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        # The web page asks this API; a profile may name another one. Without a host it is that of the page.
        "PREFECT_UI_API_URL": "/api" if host in _EVERY_INTERFACE else url,
        # Prefect's default keeps the leases of concurrency slots in memory: after a restart nobody frees the slots.
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
    }
    stopping = threading.Event()
    with log.open("ab") as file:
        # In its own session: Ctrl-C reaches only `serve`, which stops the server at its end.
        server = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            _wait(server, url, log)
            threading.Thread(target=_end_with, args=(server, stopping), daemon=True).start()
            yield url
        finally:
            ended = server.poll()
            stopping.set()
            server.terminate()
            with suppress(subprocess.TimeoutExpired):
                server.wait(_STOP_SECONDS)
            if server.poll() is None:
                server.kill()
                server.wait()
            if ended is not None:
                raise LogitlakeError(f"Prefect's server has ended with code {ended}; {_end_of(log)}") from None


def api_url(host: str, port: int) -> str:
    """The URL at which this machine reaches the API of a server that listens at `host`."""
    reached = _EVERY_INTERFACE.get(host, host)
    return f"http://[{reached}]:{port}/api" if ":" in reached else f"http://{reached}:{port}/api"


def answers(url: str) -> bool:
    """Whether a Prefect server answers at the URL of its API."""
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=2) as answer:
            return json.loads(answer.read()) is True
    except URLError as error:
        return not isinstance(error.reason, OSError)
    except (OSError, ValueError):
        return True  # another server uses the port


def _wait(server: "subprocess.Popen[bytes]", url: str, log: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        if server.poll() is not None:
            break
        with suppress(OSError, ValueError), urllib.request.urlopen(f"{url}/health", timeout=2) as answer:
            if json.loads(answer.read()) is True:
                return
        time.sleep(0.5)
    raise LogitlakeError(f"Prefect's server did not start within {_START_SECONDS} s; {_end_of(log)}")


def _end_with(server: "subprocess.Popen[bytes]", stopping: threading.Event) -> None:
    server.wait()
    if not stopping.is_set():
        os.kill(os.getpid(), signal.SIGTERM)


def _end_of(log: Path) -> str:
    end = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-15:])
    return f"the end of {log}:\n{end}"
