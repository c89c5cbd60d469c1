"""The corpora that a directory could be: one for each kind of file and meaning of its fields, with estimates."""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from logitlake.pipeline.corpus.document import Chat, Document, Pair, Reject, document_builder
from logitlake.pipeline.corpus.messages import texts
from logitlake.pipeline.corpus.names import escaped
from logitlake.pipeline.corpus.survey.fields import Fields, fields_in
from logitlake.pipeline.corpus.survey.samples import NoSampleError, Sample, sample_jsonl, sample_parquet
from logitlake.pipeline.corpus.survey.tree import DataFile, Folder, data_file, list_folder
from logitlake.pipeline.settings.corpus import CorpusSettings
from logitlake.storage.errors import CorpusError

# For an estimate: most tokenizers need a token for about so many bytes of UTF-8.
BYTES_PER_TOKEN = 4
# Of one directory, so many files are opened; the others are taken for their like.
_OPENED_FILES = 100
_MAX_PATTERNS = 1000
# A reader rejects empty files; above this share of them the setting is raised.
_FEW_EMPTY_FILES = 0.02
_TEXT_FIELDS = Fields(settings=(), shape="text, one document per file", others=())


@dataclass(frozen=True, kw_only=True, slots=True)
class CorpusDraft:
    """One corpus: its settings as in YAML, and what is known of it."""

    settings: dict[str, Any]
    shape: str
    other_fields: tuple[str, ...]
    n_files: int
    n_documents: int
    n_tokens: int
    is_exact: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Survey:
    """The corpora of a directory, and a sentence for each file or folder that is left out."""

    corpora: tuple[CorpusDraft, ...]
    left_out: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Known:
    """A file with the meaning of its fields and its number of documents and tokens."""

    file: DataFile
    fields: Fields
    n_documents: int
    n_tokens: int
    is_exact: bool

    @property
    def key(self) -> tuple[str, Any]:
        return self.file.kind, self.fields.settings


@dataclass(kw_only=True, slots=True)
class _Look:
    """One look at a directory: what was learned of each folder, and what is left out.

    `unusable` has each folder that can't be read as a whole, with the suffixes of its files that can't be used.
    """

    known: dict[Path, list[_Known]] = field(default_factory=dict)
    unusable: dict[Path, set[str]] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    names: set[str] = field(default_factory=set)


def survey(root: Path, work_directory: Path) -> Survey:
    """The corpora at a file or below a directory.

    A corpus of a whole tree never includes `work_directory`, where the lake and the students will lie. Raises
    CorpusError if `root` can't be read.
    """
    look = _Look()
    try:
        is_directory = root.resolve(strict=True).is_dir()
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise CorpusError(f"{escaped(str(root))}: can't be read ({reason}); name a file or a directory") from None
    if is_directory:
        folder = list_folder(root, look.left_out)
        _learn(folder, look)
        drafts = tuple(_drafts(folder, look, work_directory.resolve()))
    else:
        file = data_file(root, look.left_out)
        drafts = () if file is None else tuple(_draft_of_files(root, _known_files([file], look), [], look))
    return Survey(corpora=drafts, left_out=tuple(look.left_out))


def _learn(folder: Folder, look: _Look) -> bool:
    """Look into the files of a tree; returns whether some of them are data files with documents."""
    data, text = ([file for file in folder.files if (file.kind == "text") == is_text] for is_text in (False, True))
    known = _known_files(data, look)
    below = [_learn(each, look) for each in folder.folders]
    holds_data = any(entry.n_documents for entry in known) or any(below)
    is_partly_read = folder.is_partly_read
    if text and holds_data:
        # A read-me or a script beside data files is about them, and no document.
        more = f" and {len(text) - 1:,} more" if len(text) > 1 else ""
        look.left_out.append(f"{escaped(str(text[0].path))}{more}: text beside data files")
        is_partly_read, text = True, []
    known += _known_files(text, look)
    look.known[folder.path] = known
    used = {entry.file.path for entry in known}
    unusable = folder.unreadable | {file.suffix for file in data if file.path not in used}
    if unusable or is_partly_read:
        look.unusable[folder.path] = unusable
    return holds_data


def _known_files(files: Sequence[DataFile], look: _Look) -> list[_Known]:
    """The files of one directory that can be used."""
    known, last = list[_Known](), dict[str, _Known]()
    for number, file in enumerate(files):
        if file.kind == "text":
            entry: _Known | None = _text(file)
        elif number < _OPENED_FILES or file.kind not in last:
            entry = _sampled(file, look)
        else:
            entry = _like(file, last[file.kind])
        if entry is not None:
            known.append(entry)
            last[file.kind] = entry
    return known


def _text(file: DataFile) -> _Known:
    n_bytes = _size(file.path)
    n_tokens = n_bytes // BYTES_PER_TOKEN
    return _Known(file=file, fields=_TEXT_FIELDS, n_documents=int(n_bytes > 0), n_tokens=n_tokens, is_exact=True)


def _sampled(file: DataFile, look: _Look) -> _Known | None:
    try:
        sample = sample_jsonl(file.path) if file.kind == "jsonl" else sample_parquet(file.path)
    except NoSampleError as error:
        look.left_out.append(f"{escaped(str(file.path))}: {error}")
        return None
    if not sample.n_records:
        return None
    fields = fields_in(sample.records)
    if fields is None:
        names = ", ".join(map(escaped, dict.fromkeys(name for record in sample.records for name in record))) or "none"
        reason = f"too few records with text, or with chats that have an answer; its fields: {names[:200]}"
        look.left_out.append(f"{escaped(str(file.path))}: {reason}")
        return None
    n_tokens = _tokens_of(file, fields, sample)
    n_documents, is_exact = sample.n_records, sample.is_exact
    return _Known(file=file, fields=fields, n_documents=n_documents, n_tokens=n_tokens, is_exact=is_exact)


def _tokens_of(file: DataFile, fields: Fields, sample: Sample) -> int:
    """Tokens of the whole file, from the documents that its reader would make of the sample."""
    settings = {"name": "sample", "kind": file.kind, "path": "sample", **dict(fields.settings)}
    build = document_builder(CorpusSettings.model_validate(settings))
    built = [build(record, "", None) for record in sample.records]
    n_bytes = sum(_bytes_of(item) for item in built if isinstance(item, Document))
    return round(n_bytes / len(built) * sample.n_records / BYTES_PER_TOKEN)


def _bytes_of(document: Document | Reject) -> int:
    content = getattr(document, "content", "")
    if isinstance(content, Pair):
        return len((content.prompt + content.completion).encode(errors="replace"))
    if isinstance(content, Chat):
        words = [text for message in content.messages for text in texts(message.get("content"))]
        return sum(len(text.encode(errors="replace")) for text in words)
    return len(content.encode(errors="replace"))


def _like(file: DataFile, other: _Known) -> _Known:
    """A file that was not opened, by the density of another one."""
    scale = _size(file.path) / max(_size(other.file.path), 1)
    n_documents, n_tokens = round(other.n_documents * scale), round(other.n_tokens * scale)
    return _Known(file=file, fields=other.fields, n_documents=n_documents, n_tokens=n_tokens, is_exact=False)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _drafts(folder: Folder, look: _Look, work_directory: Path) -> Iterator[CorpusDraft]:
    """One corpus for a tree whose files are all alike, else one for each kind in each directory of it."""
    whole = list(_all_known(folder, look))
    alike = len({entry.key for entry in whole}) == 1 and not _any_unusable(folder, look)
    if alike and folder.folders and not work_directory.is_relative_to(folder.path.resolve()):
        yield from _draft_of_files(folder.path, whole, _patterns(whole, "**/*"), look)
        return
    own = look.known[folder.path]
    groups = defaultdict[tuple[str, Any], list[_Known]](list)
    for entry in own:
        groups[entry.key].append(entry)
    for key, entries in groups.items():
        others = {entry.file.suffix for entry in own if entry.key != key}
        mixed = (others | look.unusable.get(folder.path, set())) & {entry.file.suffix for entry in entries}
        patterns = [_literal(entry.file.path.name) for entry in entries] if mixed else _patterns(entries, "*")
        yield from _draft_of_files(folder.path, entries, patterns, look)
    for below in folder.folders:
        yield from _drafts(below, look, work_directory)


def _all_known(folder: Folder, look: _Look) -> Iterator[_Known]:
    yield from look.known[folder.path]
    for below in folder.folders:
        yield from _all_known(below, look)


def _any_unusable(folder: Folder, look: _Look) -> bool:
    return folder.path in look.unusable or any(_any_unusable(below, look) for below in folder.folders)


def _patterns(entries: Sequence[_Known], lead: str) -> list[str]:
    """Patterns for all suffixes; none if the kind reads the whole tree of its own accord."""
    if lead.startswith("**") and all(entry.file.is_default for entry in entries):
        return []
    return sorted({f"{lead}{entry.file.suffix}" for entry in entries})


def _literal(name: str) -> str:
    """A pattern that matches this name alone."""
    return re.sub(r"([\\*?\[\]!])", r"\\\1", name)


def _draft_of_files(
    path: Path, entries: Sequence[_Known], patterns: Sequence[str], look: _Look
) -> Iterator[CorpusDraft]:
    if not sum(entry.n_documents for entry in entries):
        return
    if len(patterns) > _MAX_PATTERNS:
        look.left_out.append(f"{escaped(str(path))}: {len(patterns):,} files of several forms; sort them into folders")
        return
    texts_of_settings = [str(path), *patterns]
    if any(text != text.encode(errors="ignore").decode() for text in texts_of_settings):
        look.left_out.append(f"{escaped(str(path))}: a name is not UTF-8; rename it, or make a link with another name")
        return
    first = entries[0]
    # `~` is a home directory to a reader, and a blank is no path.
    plain = str(path) if not str(path).startswith("~") and str(path).strip() else str(path.absolute())
    settings: dict[str, Any] = {"name": _name(path, look.names), "kind": first.file.kind, "path": plain}
    if patterns:
        settings["glob"] = tuple(patterns)
    if any(_is_link_to_outside(entry.file.path, path) for entry in entries):
        settings["follow_links"] = True
    n_empty = sum(entry.n_documents == 0 for entry in entries) if first.file.kind == "text" else 0
    if n_empty > _FEW_EMPTY_FILES * len(entries):
        settings["max_reject_share"] = 1.0
    others = dict.fromkeys(name for entry in entries for name in entry.fields.others)
    yield CorpusDraft(
        settings={**settings, **dict(first.fields.settings)},
        shape=first.fields.shape,
        other_fields=tuple(others),
        n_files=len(entries),
        n_documents=sum(entry.n_documents for entry in entries),
        n_tokens=sum(entry.n_tokens for entry in entries),
        is_exact=all(entry.is_exact for entry in entries),
    )


def _is_link_to_outside(file: Path, root: Path) -> bool:
    return root.is_dir() and file.is_symlink() and not file.resolve().is_relative_to(root.resolve())


def _name(path: Path, taken: set[str]) -> str:
    """A name of a corpus, from the path's last part, that is not taken."""
    last = path.resolve().name if path.is_dir() else path.name.split(".")[0]
    plain = unicodedata.normalize("NFKD", last).encode("ascii", "ignore").decode()
    base = re.sub(r"[^A-Za-z0-9_.-]+", "-", plain).strip("-_.")[:48] or "corpus"
    name, number = base, 1
    while name in taken:
        number += 1
        name = f"{base}-{number}"
    taken.add(name)
    return name
