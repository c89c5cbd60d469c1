"""The web page of the server that `serve` starts speaks to that server, wherever the browser is."""

import json
import urllib.request
from pathlib import Path

import pytest

from logitlake.flows.serve.local_server import local_server

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_the_page_asks_the_server_that_it_comes_from(tmp_path: Path, free_port: int, host: str) -> None:
    with local_server(tmp_path, host, free_port) as url:
        assert url == f"http://127.0.0.1:{free_port}/api"
        with urllib.request.urlopen(f"{url.removesuffix('/api')}/ui-settings", timeout=60) as answer:
            api = json.loads(answer.read())["api_url"]
        # An address without a host is that of the page.
        assert api == ("/api" if host == "0.0.0.0" else url)
