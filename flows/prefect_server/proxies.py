"""Proxies of the environment, arranged so that the servers of this machine are reached without one.

A proxy variable that the HTTP library can't use (SOCKS without its package, an unknown scheme) would stop every client,
also those that reach only this machine: it is left out, with a warning that names the variable and not its value.
"""

import importlib.util
import logging
import os
import urllib.parse

log = logging.getLogger(__name__)

_LOCAL = ("localhost", "127.0.0.1", "::1")
_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
_SCHEMES = {"http", "https"}
# The package that the HTTP library needs for a SOCKS proxy.
_SOCKS = importlib.util.find_spec("socksio") is not None
_SOCKS_SCHEMES = {"socks5", "socks5h"}


def reach_this_machine() -> None:
    """Add this machine to NO_PROXY, and drop the proxy variables that no client could use."""
    for name in [*_PROXIES, *map(str.lower, _PROXIES)]:
        value = os.environ.get(name)
        if value and not _is_usable(value):
            log.warning("%s is ignored: expected the URL of an http or https proxy", name)
            del os.environ[name]
    for name in ("NO_PROXY", "no_proxy"):
        hosts = [host.strip() for host in os.environ.get(name, "").split(",") if host.strip()]
        # The lower-case variable wins where both are set, so it is not made without need.
        if "*" in hosts:
            continue  # no host has a proxy; beside other names not every client knows the star
        if hosts or name == "NO_PROXY":
            os.environ[name] = ",".join([*hosts, *(host for host in _LOCAL if host not in hosts)])


def _is_usable(value: str) -> bool:
    try:
        parts = urllib.parse.urlsplit(value if "://" in value else f"http://{value}")
        return (
            parts.scheme in (_SCHEMES | _SOCKS_SCHEMES if _SOCKS else _SCHEMES)
            and bool(parts.hostname)
            and (parts.port is None or parts.port > 0)
        )
    except ValueError:
        return False
