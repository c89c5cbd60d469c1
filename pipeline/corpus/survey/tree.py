"""The files below a directory by kind, and what is left out with the reason. No file is opened here but JSON files."""

import os
from dataclasses import dataclass, field
from pathlib import Path

from logitlake.pipeline.corpus.names import escaped
from logitlake.pipeline.corpus.survey.samples import begins_with_json_array, begins_with_two_objects

_PACKED = ("", ".gz", ".zst", ".zstd")
_JSON_LINES = tuple(f".{kind}{packed}" for kind in ("jsonl", "ndjson") for packed in _PACKED)
_PROSE = ("txt", "text", "md", "markdown", "rst", "tex", "org", "adoc")
_CODE = (
    *("py", "pyi", "ipynb", "js", "jsx", "ts", "tsx", "c", "h", "cc", "cpp", "hpp", "cs", "cu", "java", "kt", "scala"),
    *("go", "rs", "rb", "php", "pl", "lua", "swift", "jl", "r", "sql", "sh", "hs", "ml", "ex", "erl", "clj"),
)
_TEXT = {f".{name}" for name in (*_PROSE, *_CODE)}
# Compiled code: nothing in it has a suffix that is read.
_NEVER_MATCHED = {"__pycache__"}
_NOT_DATA = {"node_modules", "site-packages", "venv"}
# A directory that holds one of these files is no place of documents.
_MARKS = {
    "catalog.sqlite": "a lake",
    "pyvenv.cfg": "a Python environment",
    "dataset_dict.json": "a saved data set: read it with kind huggingface",
    "state.json": "a saved data set: read it with kind huggingface",
}
_MAX_DEPTH = 100
_WEIGHTS = (".safetensors", ".gguf", ".bin")


@dataclass(frozen=True, kw_only=True, slots=True)
class DataFile:
    """One file that a kind of corpus can read. `suffix` is what a pattern for its like ends in."""

    path: Path
    kind: str
    suffix: str

    @property
    def is_default(self) -> bool:
        """Whether its kind reads files of this suffix without a pattern."""
        return self.suffix in (".parquet", *(name for name in _JSON_LINES if not name.endswith(".zstd")))


@dataclass(kw_only=True, slots=True)
class Folder:
    """One directory: its own files, and the directories below it. `is_partly_read`: something in it is left out.

    `unreadable` has the suffixes of entries that are named like files of data and are none, such as broken links.
    """

    path: Path
    files: list[DataFile] = field(default_factory=list)
    folders: list["Folder"] = field(default_factory=list)
    is_partly_read: bool = False
    unreadable: set[str] = field(default_factory=set)


def list_folder(path: Path, left_out: list[str], depth: int = 0) -> Folder:
    """The tree of a directory without hidden names. Adds a sentence to `left_out` for what can't be used."""
    folder = Folder(path=path)
    if depth > _MAX_DEPTH:
        left_out.append(f"{escaped(str(path))}: more than {_MAX_DEPTH} directories deep")
        folder.is_partly_read = True
        return folder
    try:
        with os.scandir(path) as listing:
            entries = sorted((entry for entry in listing if not entry.name.startswith(".")), key=lambda e: e.name)
    except OSError as error:
        left_out.append(f"{escaped(str(path))}: can't be listed ({error.strerror})")
        folder.is_partly_read = True
        return folder
    names = {entry.name for entry in entries}
    if reason := _no_place_of_documents(names):
        left_out.append(f"{escaped(str(path))}: {reason}")
        folder.is_partly_read = True
        return folder
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            if entry.name in _NEVER_MATCHED | _NOT_DATA:
                folder.is_partly_read |= entry.name in _NOT_DATA
                continue
            below = list_folder(Path(entry.path), left_out, depth + 1)
            if below.files or below.folders or below.is_partly_read:
                folder.folders.append(below)
        elif entry.is_file():
            if file := data_file(Path(entry.path), left_out):
                folder.files.append(file)
        elif entry.is_dir():
            left_out.append(f"{escaped(entry.path)}: a link to a directory; name that directory itself")
        elif suffix := _suffix_of_documents(entry.name):
            left_out.append(f"{escaped(entry.path)}: a broken link, or no ordinary file")
            folder.unreadable.add(suffix)
    return folder


def _suffix_of_documents(name: str) -> str:
    """The suffix by which a corpus would take an entry for a file of documents; empty if none does."""
    suffixes = (*_JSON_LINES, ".parquet", ".json", *_TEXT)
    return next((name[-len(suffix) :] for suffix in suffixes if name.lower().endswith(suffix)), "")


def data_file(path: Path, left_out: list[str]) -> DataFile | None:
    """A file by its name; None for one that no kind of corpus reads."""
    name = path.name
    for suffix in _JSON_LINES:
        if name.lower().endswith(suffix):
            actual = name[-len(suffix) :]
            # Only a suffix in small letters is unpacked.
            packed = actual.rpartition(".")[2].lower() in ("gz", "zst", "zstd")
            return DataFile(path=path, kind="jsonl", suffix=actual) if not packed or actual.islower() else None
    if name.lower().endswith(".parquet"):
        return DataFile(path=path, kind="parquet", suffix=name[-len(".parquet") :])
    if path.suffix.lower() == ".json":
        return _json_file(path, left_out)
    if path.suffix.lower() in (".csv", ".tsv"):
        left_out.append(f"{escaped(str(path))}: tables of this form are not read; convert it to Parquet or JSON Lines")
    elif path.suffix.lower() in _TEXT:
        return DataFile(path=path, kind="text", suffix=path.suffix)
    return None


def _json_file(path: Path, left_out: list[str]) -> DataFile | None:
    if begins_with_two_objects(path):
        return DataFile(path=path, kind="jsonl", suffix=path.suffix)
    if begins_with_json_array(path):
        left_out.append(f"{escaped(str(path))}: one JSON array; make it JSON Lines: jq -c '.[]' FILE.json > FILE.jsonl")
    return None


def _no_place_of_documents(names: set[str]) -> str | None:
    for mark, reason in _MARKS.items():
        if mark in names:
            return reason
    if "config.json" in names and any(name.endswith(_WEIGHTS) for name in names):
        return "a model"
    return None
