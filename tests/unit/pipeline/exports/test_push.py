"""Uploads to a Hub of our own: the requests of huggingface_hub are real, the answers are the least that it needs."""

import base64
import json
import re
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from logitlake.pipeline.exports.push import check_push, push
from logitlake.storage.errors import MismatchError, SettingsError, UploadError

TOKEN = "hf_plantedtokenofthehub"


class FakeHub(ThreadingHTTPServer):
    """One data set in memory, whose files are all small: `files` by path, `made` as the repository was asked for."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answers)
        self.files: dict[str, bytes] = {}
        self.made: dict[str, Any] = {}
        self.commits: list[str] = []
        self.refusal = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    @property
    def is_private(self) -> bool:
        """Older versions of huggingface_hub ask for `private`, newer ones for a `visibility`."""
        return bool(self.made.get("private", self.made.get("visibility") == "private"))


class _Answers(BaseHTTPRequestHandler):
    server: FakeHub

    def do_GET(self) -> None:
        if "/tree/" in self.path:
            files = self.server.files.items()
            self._send([{"type": "file", "path": n, "size": len(c), "oid": "0" * 40} for n, c in files])
        else:
            siblings = [{"rfilename": name} for name in self.server.files]
            self._send({"id": "me/targets", "sha": "0" * 40, "siblings": siblings, "private": True})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        assert self.headers["Authorization"] == f"Bearer {TOKEN}"
        if self.server.refusal:
            self._send({"error": "You may not write here"}, self.server.refusal)
        elif self.path == "/api/repos/create":
            self.server.made = json.loads(body)
            self._send({"url": f"{self.server.url}/datasets/me/targets"})
        elif "/preupload/" in self.path:
            files = json.loads(body)["files"]
            self._send({"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files]})
        elif re.search("/commit/", self.path):
            self._commit(body)
            self._send(
                {"commitUrl": f"{self.server.url}/datasets/me/targets/commit/1", "commitOid": "1" * 40, "success": True}
            )
        else:
            self._send({"errors": [], "warnings": []})

    def _commit(self, body: bytes) -> None:
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "header":
                self.server.commits.append(line["value"]["summary"])
            elif line["key"] == "file":
                self.server.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            elif line["key"] == "deletedFile":
                del self.server.files[line["value"]["path"]]

    def _send(self, answer: Any, status: int = 200) -> None:
        content = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with FakeHub() as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server.url)
        yield server
        server.shutdown()
        thread.join()


def pushed(directory: Path, *, public: bool = False) -> str:
    return push(directory, "me/targets", public=public, message="Rows")


@pytest.fixture
def directory(any_lake: Any, tmp_path: Path) -> Path:
    return any_lake.export(tmp_path / "hub", "huggingface", file_tokens=1)


def test_a_directory_is_uploaded_as_one_commit_and_the_repository_is_private(hub: FakeHub, directory: Path) -> None:
    assert pushed(directory) == f"{hub.url}/datasets/me/targets/commit/1"
    written = {p.relative_to(directory).as_posix(): p.read_bytes() for p in directory.rglob("*") if p.is_file()}
    assert hub.files == written and hub.commits == ["Rows"]
    assert hub.is_private and hub.made["type"] == "dataset"


def test_a_public_repository_is_made_only_when_it_is_asked_for(hub: FakeHub, directory: Path) -> None:
    pushed(directory, public=True)
    assert not hub.is_private


def test_data_files_that_an_export_no_longer_has_are_deleted_by_the_same_commit(hub: FakeHub, directory: Path) -> None:
    hub.files = {"data/train-00007.parquet": b"old", "LICENSE": b"mine", "lineage.json": b"{}"}
    pushed(directory)
    assert "data/train-00007.parquet" not in hub.files and hub.files["LICENSE"] == b"mine"
    assert hub.commits == ["Rows"]


def test_data_files_of_another_split_stay(hub: FakeHub, directory: Path) -> None:
    hub.files = {"data/test-00000.parquet": b"held out", "data/training.parquet": b"mine", "lineage.json": b"{}"}
    pushed(directory)
    assert hub.files["data/test-00000.parquet"] == b"held out" and hub.files["data/training.parquet"] == b"mine"


@pytest.mark.parametrize("name", ["data/train-00000.parquet", "train.jsonl"])
def test_a_data_set_of_another_program_is_refused_and_unchanged(hub: FakeHub, directory: Path, name: str) -> None:
    hub.files = {".gitattributes": b"", "README.md": b"mine", name: b"mine"}
    before = dict(hub.files)
    with pytest.raises(MismatchError, match=rf"push to me/targets: .* found {name} and no lineage\.json.*another repo"):
        pushed(directory)
    assert hub.files == before and not hub.commits


def test_a_repository_without_data_is_taken(hub: FakeHub, directory: Path) -> None:
    hub.files = {".gitattributes": b"", "README.md": b"soon"}
    pushed(directory)
    assert "lineage.json" in hub.files


@pytest.mark.parametrize("status", [401, 403])
def test_a_refusal_is_one_sentence_without_the_token(hub: FakeHub, directory: Path, status: int) -> None:
    hub.refusal = status
    with pytest.raises(UploadError) as caught:
        pushed(directory)
    assert re.fullmatch(rf"push to me/targets: .*{status}.*; the export is on disk: .*", str(caught.value))
    assert TOKEN not in str(caught.value)


def test_a_hub_that_is_not_there_is_one_sentence(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with pytest.raises(UploadError, match=r"^push to me/targets: .*; the export is on disk: [^\n]*$"):
        push(directory, "me/targets", public=False, message="Rows")


def test_what_can_not_succeed_is_refused_before_anything_is_exported(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(SettingsError, match="such as me/targets"):
        check_push("not a name")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(SettingsError, match="unset HF_HUB_OFFLINE"):
        check_push("me/targets")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "token"))
    with pytest.raises(SettingsError, match="set HF_TOKEN"):
        check_push("me/targets")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    check_push("me/targets")
