"""The address of the local server, as this machine reaches it."""

import pytest

from logitlake.flows.serve.local_server import api_url


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:4200/api"),
        ("nights.example", "http://nights.example:4200/api"),
        ("0.0.0.0", "http://127.0.0.1:4200/api"),
        ("::", "http://[::1]:4200/api"),
        ("::1", "http://[::1]:4200/api"),
    ],
)
def test_a_server_that_listens_on_every_interface_is_reached_by_loopback(host: str, url: str) -> None:
    assert api_url(host, 4200) == url
