"""Real servers for the tests that need one: PostgreSQL from the system, an S3 server from PyPI, both on loopback."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

_ACCESS_KEY, _SECRET_KEY, _BUCKET = "logitlake", "logitlake-secret", "lake"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _postgres_program(name: str) -> str:
    installed = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    program = str(installed[-1]) if installed else shutil.which(name)
    if program is None:
        pytest.fail("PostgreSQL is not installed: `apt-get install postgresql` (CI does), or run `make test`")
    return program


@dataclass(frozen=True, slots=True)
class Cluster:
    """A running PostgreSQL cluster: its connection string, but for the database, and the start of `pg_ctl`."""

    connection: str
    control: list[str]
    options: list[str]

    def restart(self) -> None:
        """Break every connection, as a crash does, and start again."""
        command = [*self.control, *self.options, "-m", "immediate", "restart"]
        subprocess.run(command, check=True, capture_output=True, cwd="/")


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Cluster]:
    """A cluster of our own on loopback.

    Not in a folder of pytest: another run of pytest closes their parent to every other user, so to PostgreSQL's.
    """
    with tempfile.TemporaryDirectory(prefix="logitlake-postgres-") as name:
        folder, port = Path(name), _free_port()
        cluster = folder / "cluster"
        # PostgreSQL refuses to run as root: there, it runs as the user that its package made.
        prefix = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
        if prefix:
            shutil.chown(folder, "postgres")
        control = [*prefix, _postgres_program("pg_ctl"), "-D", str(cluster), "-w"]
        settings = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off"
        make = [*prefix, _postgres_program("initdb"), "-D", str(cluster), "-A", "trust", "-U", "logitlake"]
        subprocess.run(make, check=True, capture_output=True, cwd="/")
        # Everybody is let in, but this user must know the password.
        rules = cluster / "pg_hba.conf"
        text = rules.read_text(encoding="utf-8")
        rules.write_text(f"host all guarded 127.0.0.1/32 scram-sha-256\n{text}", encoding="utf-8")
        options = ["-o", settings, "-l", str(folder / "log")]
        subprocess.run([*control, *options, "start"], check=True, capture_output=True, cwd="/")
        try:
            yield Cluster(f"host=127.0.0.1 port={port} user=logitlake", control, options)
        finally:
            subprocess.run([*control, "-m", "immediate", "stop"], check=True, capture_output=True, cwd="/")


@pytest.fixture(scope="session")
def postgres_cluster(postgres_server: Cluster) -> str:
    """A connection string, but for the database."""
    return postgres_server.connection


@pytest.fixture
def postgres(postgres_cluster: str) -> str:
    """A catalog setting that names an empty database."""
    database = f"lake_{uuid.uuid4().hex}"
    make = [_postgres_program("psql"), f"{postgres_cluster} dbname=postgres", "-c", f"CREATE DATABASE {database}"]
    subprocess.run(make, check=True, capture_output=True)
    return f"postgres:{postgres_cluster} dbname={database}"


@pytest.fixture
def guarded_postgres(postgres_cluster: str) -> Callable[[str], tuple[str, str]]:
    """Makes the user `guarded` with a password and a database of its own; returns host:port and the database."""

    def make(password: str) -> tuple[str, str]:
        database = f"lake_{uuid.uuid4().hex}"
        program, connection = _postgres_program("psql"), f"{postgres_cluster} dbname=postgres"
        subprocess.run([program, connection, "-c", "CREATE ROLE guarded LOGIN"], check=False, capture_output=True)
        commands = [f"ALTER ROLE guarded PASSWORD '{password}'", f"CREATE DATABASE {database} OWNER guarded"]
        for command in commands:
            subprocess.run([program, connection, "-c", command], check=True, capture_output=True)
        port = postgres_cluster.partition("port=")[2].split()[0]
        return f"127.0.0.1:{port}", database

    return make


@pytest.fixture
def s3_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URL of an empty bucket on an S3 server that checks credentials; the environment holds them."""
    port = _free_port()
    (tmp_path / "buckets" / _BUCKET).mkdir(parents=True)
    command = [sys.executable, "-m", "nanio", "serve", "--host", "127.0.0.1", "--port", str(port)]
    server = subprocess.Popen(
        [*command, "--data-dir", str(tmp_path / "buckets"), "--log-level", "error", "--no-access-log"],
        env={**os.environ, "NANIO_ACCESS_KEY": _ACCESS_KEY, "NANIO_SECRET_KEY": _SECRET_KEY},
    )
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", _ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", _SECRET_KEY)
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    try:
        _wait_for(f"http://127.0.0.1:{port}/")
        yield f"s3://{_BUCKET}/some/prefix/"
    finally:
        server.terminate()
        server.wait()


def _wait_for(url: str) -> None:
    """Until the server answers anything at all."""
    deadline = time.monotonic() + 30
    while True:
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except urllib.error.HTTPError as error:
            error.close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
