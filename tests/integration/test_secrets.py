"""No secret is in what a command prints or writes, whether it succeeds or fails."""

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import orjson
import pytest

from logitlake.flows.cli.command_table import entries
from tests.tiny_lake import append_documents, tiny_settings

pytestmark = pytest.mark.slow

# Signs that a URL must escape, so that both forms are looked for.
CATALOG = "catalog-pass/word+of-night"
# A port on which nothing listens: 1 needs privileges that no test server has.
NOBODY = "127.0.0.1:1"
SECRETS = {
    "AWS_ACCESS_KEY_ID": "planted-access-key",
    "AWS_SECRET_ACCESS_KEY": "planted-secret/access+key",
    "AWS_SESSION_TOKEN": "planted-session-token",
    "GCS_ACCESS_KEY_ID": "planted-gcs-key",
    "GCS_SECRET_ACCESS_KEY": "planted-gcs-secret",
    "HF_TOKEN": "hf_plantedtokenofthehub",
    "PREFECT_API_KEY": "planted-prefect-key",
    "PREFECT_API_AUTH_STRING": "admin:planted-auth-string",
    "PGPASSWORD": "planted-pgpassword",
    "OPENAI_API_KEY": "planted-openai-key",
}
PROXY, SERVER, HUB = "planted-proxy-password", "planted-server-password", "planted-hub-password"
ALL = [CATALOG, *SECRETS.values(), PROXY, SERVER, HUB]

# Each command as somebody would type it; `serve` and `demo` never end here, and have tests of their own below.
COMMANDS: dict[str, list[list[str]]] = {
    "init": [[".."]],
    "plan": [[]],
    "check": [["--documents", "1"]],
    "capture": [[], ["--debug"]],
    "train": [["--layers", "1"]],
    "evaluate": [["nobody"]],
    "redistill": [[], ["--debug"]],
    "promote": [["nobody"]],
    "rollback": [["--dry-run"]],
    "retire": [["nothing"]],
    "report": [["--output", "report.html"]],
    "sql": [["SELECT count(*) FROM documents"], ["SELECT nothing"], ["--init"], ["SELECT getenv('AWS_SESSION_TOKEN')"]],
    "show": [[], ["config"], ["config", "--format", "json"], ["runs"], ["run", "last"], ["recipe", "nothing"]],
    "export": [["exported"]],
    "generate": [[]],
    "import": [["nothing", "--from", "axolotl", "--teacher", "somebody", "--tokenizer", "nowhere"]],
    "verify": [[]],
    "maintain": [[]],
    "forget": [["nothing"]],
    "repair": [[]],
    "copy": [["copy"], ["copy", "--dry-run"]],
    "rebuild": [[]],
}
NEVER_ENDING = {"serve", "demo"}


def test_every_command_is_run():
    assert {entry.name for entry in entries()} == COMMANDS.keys() | NEVER_ENDING


class Project:
    """A folder with settings, the secrets in the environment, and all that commands have printed."""

    def __init__(self, folder: Path, raw: dict[str, Any], environment: dict[str, str]) -> None:
        self.folder, self.config_file = folder, folder / "settings" / "logitlake.yaml"
        self.config_file.parent.mkdir()
        self.config_file.write_bytes(orjson.dumps(raw))
        self.environment = environment
        self.printed: list[tuple[str, str]] = []

    def run(self, *arguments: str, **environment: str) -> int:
        call = [sys.executable, "-m", "logitlake", *arguments, "--config", str(self.config_file)]
        work = self.folder / "work"
        work.mkdir(exist_ok=True)
        done = subprocess.run(
            call, cwd=work, env=self.environment | environment, capture_output=True, check=False, timeout=300
        )
        text = (done.stdout + done.stderr).decode(errors="replace")
        self.printed.append((" ".join(arguments), text))
        return done.returncode

    def leaks(self) -> list[tuple[str, str]]:
        """Where a secret stands, and which: in the output of a command, or in a file beside the settings."""
        written = [(str(file), file.read_bytes().decode("latin-1")) for file in self._files()]
        places = [*self.printed, *written]
        return [(place, secret) for place, text in places for secret in ALL if any(f in text for f in _forms(secret))]

    def _files(self) -> Iterator[Path]:
        for file in self.folder.rglob("*"):
            if file.is_file() and file != self.config_file:
                yield file


def _forms(secret: str) -> set[str]:
    """A secret as it is, percent-encoded, and as JSON may escape it."""
    return {secret, quote(secret), quote(secret, safe=""), secret.replace("/", "\\/")}


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Every variable that takes a secret holds one, but those that would lead to another Prefect server."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT")}
    return {
        **kept,
        **{name: value for name, value in SECRETS.items() if not name.startswith("PREFECT")},
        "HTTP_PROXY": f"http://user:{PROXY}@{NOBODY}",
        "https_proxy": f"http://user:{PROXY}@{NOBODY}",
        "HF_ENDPOINT": f"http://user:{HUB}@{NOBODY}",
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://{NOBODY}",
        "HOME": str(tmp_path / "home"),
        "XDG_STATE_HOME": str(tmp_path / "state"),
        "LOGITLAKE_CACHE": str(tmp_path / "cache"),
        "HF_HOME": str(tmp_path / "hub"),
        "PYTHONPATH": str(Path.cwd()),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    }


def _raw(folder: Path, teacher: Path, **lake: str) -> dict[str, Any]:
    append_documents(folder / "documents.jsonl", 0, 30)
    raw = tiny_settings(folder, teacher, folder / "documents.jsonl", learning_rate=0.003)
    raw["lake"] |= lake
    prompts = {**raw["corpora"][0], "name": "prompts"}
    raw["generate"] = {"prompts": prompts, "max_prompts": 3, "max_new_tokens": 4}
    raw["redistill"] = {"students": str(folder / "students")}
    return raw


def _run_all(project: Project, names: Sequence[str]) -> dict[str, list[int]]:
    return {name: [project.run(name, *more) for more in COMMANDS[name]] for name in names}


@pytest.mark.parametrize("form", ["url", "pairs"])
def test_commands_that_succeed_show_and_store_no_secret(
    form: str, guarded_postgres: Any, tmp_path: Path, tiny_teacher: Path, environment: Any
) -> None:
    address, database = guarded_postgres(CATALOG)
    url = f"postgres://guarded:{quote(CATALOG, safe='')}@{address}/{database}"
    host, _, port = address.partition(":")
    pairs = f"postgres:host={host} port={port} user=guarded password='{CATALOG}' dbname={database}"
    raw = _raw(tmp_path, tiny_teacher, catalog=url if form == "url" else pairs, data=str(tmp_path / "data"))
    project = Project(tmp_path, raw, environment)
    codes = _run_all(
        project,
        ["plan", "check", "generate", "capture", "redistill", "sql", "show", "verify", "maintain", "report", "export"],
    )
    failed = {name: project.printed for name, of_name in codes.items() if of_name[0] != 0}
    assert failed == {}
    assert list((tmp_path / "state").rglob("prefect.db"))
    assert project.leaks() == []


@pytest.mark.parametrize(
    "catalog",
    [
        f"postgres://guarded:{quote(CATALOG, safe='')}@{NOBODY}/lake",
        f"postgres://guarded:{CATALOG}@{NOBODY}/lake",
        f"postgres:host=127.0.0.1 port=1 user=guarded password='{CATALOG}' dbname=lake",
        f"postgres:host=127.0.0.1 port=1 password=two {CATALOG}",
        f"mysql:mysql://guarded:{CATALOG}@{NOBODY}/lake",
    ],
    ids=["escaped", "bare", "pairs", "unquoted", "other-kind"],
)
def test_commands_that_reach_no_catalog_show_no_secret(
    catalog: str, tmp_path: Path, tiny_teacher: Path, environment: Any
) -> None:
    project = Project(tmp_path, _raw(tmp_path, tiny_teacher, catalog=catalog, data=str(tmp_path / "data")), environment)
    codes = _run_all(project, ["plan", "capture", "show"])
    project.run("sql", "--debug", "SELECT 1")
    assert all(code in (2, 5) for name in ("plan", "capture") for code in codes[name]), project.printed
    assert project.leaks() == []
    assert any(form in project.config_file.read_text() for form in _forms(CATALOG))


def test_a_wrong_password_is_not_shown(
    guarded_postgres: Any, tmp_path: Path, tiny_teacher: Path, environment: Any
) -> None:
    address, database = guarded_postgres(CATALOG)
    url = f"postgres://guarded:not-{quote(CATALOG, safe='')}@{address}/{database}"
    project = Project(tmp_path, _raw(tmp_path, tiny_teacher, catalog=url, data=str(tmp_path / "data")), environment)
    assert project.run("capture", "--debug") == 5
    assert "authentication failed" in project.printed[0][1]
    assert project.leaks() == []


@pytest.mark.parametrize("name", ["capture", "show", "sql", "rebuild", "maintain"])
def test_a_bucket_that_is_not_reached_shows_no_secret(
    name: str, tmp_path: Path, tiny_teacher: Path, environment: Any
) -> None:
    project = Project(tmp_path, _raw(tmp_path, tiny_teacher, data="s3://bucket/lake/"), environment)
    for more in COMMANDS[name]:
        project.run(name, "--debug", *more)
    assert project.leaks() == []


def test_a_hub_that_is_not_reached_shows_no_secret(tmp_path: Path, tiny_teacher: Path, environment: Any) -> None:
    raw = _raw(tmp_path, tiny_teacher)
    raw["teacher"]["model"] = "nobody/nothing"
    project = Project(tmp_path, raw, environment)
    assert project.run("capture", "--debug", HF_HUB_OFFLINE="0") == 2
    assert project.leaks() == []


def test_a_prefect_server_that_is_not_reached_shows_no_secret(
    tmp_path: Path, tiny_teacher: Path, environment: Any
) -> None:
    project = Project(tmp_path, _raw(tmp_path, tiny_teacher), environment)
    keys = {name: value for name, value in SECRETS.items() if name.startswith("PREFECT")}
    for command in ("capture", "serve"):
        url = f"http://user:{SERVER}@{NOBODY}/api"
        assert project.run(command, "--debug", **keys, PREFECT_API_URL=url) not in (0, 124)
    assert project.leaks() == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"lake": {"catalog": {"password": CATALOG}}},
        {"lake": {"catalog": [f"postgres://u:{CATALOG}@h/db"]}},
        {"lake": {"catalog": "lake.sqlite", "password": CATALOG}},
        {"lake": f"postgres://u:{CATALOG}@h/db"},
        {"lake": f"postgres:host=h password={CATALOG}"},
        {"schedule": {"notify": f"https://hooks.example/{CATALOG}"}},
        {"schedule": {"notify": {"password": CATALOG}}},
    ],
    ids=str,
)
def test_settings_that_are_refused_are_shown_without_their_secrets(
    wrong: dict[str, Any], tmp_path: Path, environment: Any
) -> None:
    project = Project(tmp_path, wrong, environment)
    assert project.run("show", "config", "--debug") == 2
    assert project.leaks() == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["show", "--set", f"lake.catalog.x=postgres://u:{CATALOG}@h/db", "--debug"],
        ["show", "--set", f"lake.catalog=[postgres://u:{CATALOG}@h/db", "--debug"],
        ["show", "--set", f"lake.catalog: postgres://u:{CATALOG}@h/db"],
        ["show", f"postgres://u:{CATALOG}@h/db"],
        ["verify", f"postgres://u:{CATALOG}@h/db"],
        ["serve", "--set", f"lake.catalog=postgres:host=127.0.0.1 port=1 password={CATALOG}"],
    ],
    ids=lambda arguments: " ".join(arguments[:2]),
)
def test_arguments_that_are_refused_are_shown_without_their_secrets(
    arguments: list[str], tmp_path: Path, tiny_teacher: Path, environment: Any
) -> None:
    project = Project(tmp_path, _raw(tmp_path, tiny_teacher), environment)
    assert project.run(*arguments) in (2, 5)
    project.printed = [("", project.printed[0][1])]
    assert project.leaks() == []
