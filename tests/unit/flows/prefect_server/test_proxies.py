"""Whatever the environment says about proxies, a server on this machine is reached."""

import http.server
import os
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

# Asks a server on this machine with the HTTP library that Prefect uses, and with the standard library's.
CLIENT = """
import sys, urllib.request
from logitlake.flows.prefect_server.proxies import reach_this_machine
reach_this_machine()
import httpx
with httpx.Client() as client:
    assert client.get(sys.argv[1]).text == "true"
assert urllib.request.urlopen(sys.argv[1]).read() == b"true"
"""
DEAD = "http://127.0.0.1:9"


class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"true")

    def log_message(self, format: str, *given: object) -> None:
        return


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    "environment",
    [
        {"HTTP_PROXY": DEAD},
        {"http_proxy": DEAD, "no_proxy": "example.org"},
        {"ALL_PROXY": DEAD, "NO_PROXY": "example.org, .example.com"},
        {"ALL_PROXY": "socks5://user:secret@127.0.0.1:9"},
        {"https_proxy": "gopher://example.org:1"},
        {"HTTP_PROXY": "http://example.org:not-a-port"},
        {"all_proxy": "://"},
    ],
    ids=lambda environment: ",".join(f"{name}={value}" for name, value in environment.items()),
)
def test_a_server_of_this_machine_is_reached(url: str, environment: dict[str, str]) -> None:
    plain = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    call = [sys.executable, "-c", CLIENT, url]
    done = subprocess.run(call, capture_output=True, text=True, check=False, env=plain | environment)
    assert done.returncode == 0, done.stderr
    assert "secret" not in done.stdout + done.stderr


def test_other_hosts_keep_their_proxy() -> None:
    script = """
import os, urllib.request
from logitlake.flows.prefect_server.proxies import reach_this_machine
reach_this_machine()
assert os.environ["HTTPS_PROXY"] == "http://proxy:3128"
assert not urllib.request.proxy_bypass("huggingface.co")
assert urllib.request.proxy_bypass("mirror.example.org")
"""
    environment = {**os.environ, "HTTPS_PROXY": "http://proxy:3128", "NO_PROXY": "mirror.example.org"}
    environment.pop("no_proxy", None)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("environment", "statement"),
    [
        ({"HTTP_PROXY": DEAD, "NO_PROXY": "*"}, "assert urllib.request.proxy_bypass('huggingface.co')"),
        ({"ALL_PROXY": "socks5://proxy:1080"}, "assert os.environ['ALL_PROXY'] == 'socks5://proxy:1080'"),
    ],
    ids=["no host has a proxy", "SOCKS with its package"],
)
def test_proxies_that_clients_can_use_stay_as_they_are(environment: dict[str, str], statement: str) -> None:
    script = f"""
import importlib.util, os, urllib.request
importlib.util.find_spec = lambda name: object()
from logitlake.flows.prefect_server.proxies import reach_this_machine
reach_this_machine()
{statement}
"""
    plain = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    call = [sys.executable, "-c", script]
    done = subprocess.run(call, capture_output=True, text=True, check=False, env=plain | environment)
    assert done.returncode == 0, done.stderr
