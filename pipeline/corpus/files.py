"""Which files of a directory belong to a corpus: patterns in, a sorted stream of paths out.

Patterns are matched against the path below the corpus root, in posix form. `*`, `?` and `[...]` stay inside one name,
`**` is any number of directories, a leading `!` excludes. As in a shell, a wildcard does not match a name that starts
with a dot, so `.git` stays out unless it is named, and a backslash takes the next character as it is. Linked
directories are not followed: they may form a circle.
"""

import logging
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from wcmatch import glob

from logitlake.pipeline.corpus.document import Document, Reject, RejectReason
from logitlake.pipeline.corpus.names import escaped
from logitlake.pipeline.settings.corpus import CorpusSettings
from logitlake.storage.errors import CorpusError

_LOG = logging.getLogger(__name__)


class CorpusFile(NamedTuple):
    """One file: its path, and its name relative to the corpus root, unprintable characters escaped."""

    path: Path
    source: str


def read_files(
    settings: CorpusSettings,
    default: tuple[str, ...],
    read: Callable[[CorpusFile], Iterator[Document | Reject]],
) -> Iterator[Document | Reject]:
    """What `read` gives of each file of the corpus, sorted by directory.

    The file is `path` itself, or those below it that match `glob`; patterns that only exclude choose from `default`. A
    match that is no regular file, or a link to a file outside `path`, is a reject. A directory without any file gives
    nothing. Raises CorpusError if there are files and none matches, if a listing fails, or if a file can't be opened.
    """
    root = _root(settings)
    if not root.is_dir():
        yield from _read_one(settings, CorpusFile(root, escaped(root.name)), read)
        return
    real_root = os.path.realpath(root)
    for relative in matches(settings.name, root, settings.glob, default):
        file = CorpusFile(root / relative, escaped(relative))
        reject = _link_reject(settings, file, real_root)
        if reject is not None:
            yield reject
        else:
            yield from _read_one(settings, file, read)


def matches(name: str, root: Path, patterns: tuple[str, ...], default: tuple[str, ...]) -> Iterator[str]:
    """The paths below `root` of what matches and is no directory. See `read_files` for errors."""
    includes = [pattern for pattern in patterns if not pattern.startswith("!")] or list(default)
    excludes = [pattern[1:] for pattern in patterns if pattern.startswith("!")]
    included = _any_of(includes, hidden=False)
    excluded = _any_of(excludes, hidden=True) if excludes else None
    first_other, matched = "", False
    for relative in _walk(name, root):
        if included.match(relative) and not (excluded and excluded.match(relative)):
            matched = True
            yield relative
        elif not first_other and "/." not in f"/{relative}":
            first_other = relative
    if matched:
        return
    if not first_other:
        _LOG.info("corpus %s: no file below %s yet", name, escaped(str(root)))
        return
    expected = ", ".join([*includes, *(f"!{pattern}" for pattern in excludes)])
    raise CorpusError(
        f"corpus {name}: no file below {escaped(str(root))} matches {expected}, found {escaped(first_other)}; "
        f"correct corpora.{name}.glob or its path"
    )


def _root(settings: CorpusSettings) -> Path:
    root = Path(settings.path).expanduser()
    try:
        root.stat()
    except OSError as error:
        hint = f"correct corpora.{settings.name}.path (relative paths start at {escaped(str(Path.cwd()))})"
        raise CorpusError(
            f"corpus {settings.name}: {escaped(str(root))} can't be read ({error.strerror}); {hint}"
        ) from None
    return root


def _read_one(
    settings: CorpusSettings, file: CorpusFile, read: Callable[[CorpusFile], Iterator[Document | Reject]]
) -> Iterator[Document | Reject]:
    try:
        yield from read(file)
    except OSError as error:
        advice = f"make it readable, or leave it out with corpora.{settings.name}.glob: ['!{file.source}']"
        raise CorpusError(
            f"corpus {settings.name}: {escaped(str(file.path))} can't be read ({error.strerror or error}); {advice}"
        ) from None


def _link_reject(settings: CorpusSettings, file: CorpusFile, real_root: str) -> Reject | None:
    """The reject of what is listed in a directory and must not be read as a file of it."""
    if file.path.is_symlink() and not settings.follow_links:
        target = os.path.realpath(file.path)
        if os.path.commonpath([target, real_root]) != real_root:
            setting = f"corpora.{settings.name}.follow_links: true"
            detail = f"a link to {escaped(target)}, outside the corpus; set {setting} to read it"
            return Reject(settings.name, file.source, None, RejectReason.OUTSIDE_CORPUS, detail)
    if _is_special(file.path):
        detail = "expected a regular file, found a device, a pipe or a socket"
        return Reject(settings.name, file.source, None, RejectReason.NOT_A_FILE, detail)
    return None


def _is_special(path: Path) -> bool:
    """Whether a path is there and no regular file. What can't be looked at is an error when it is opened."""
    try:
        return not stat.S_ISREG(path.stat().st_mode)
    except OSError:
        return False


def _walk(name: str, root: Path) -> Iterator[str]:
    """Relative paths of all that is no directory, names of one directory in order; memory is one listing a level."""
    listings = [_listing(name, root, "")]
    while listings:
        for relative, is_directory in listings[-1]:
            if is_directory:
                listings.append(_listing(name, root, relative))
                break
            yield relative
        else:
            listings.pop()


def _listing(name: str, root: Path, below: str) -> Iterator[tuple[str, bool]]:
    """Relative path of each entry of a directory, and whether it is one; links to directories are left out."""
    try:
        with os.scandir(root / below) as listing:
            entries = sorted(listing, key=lambda entry: entry.name)
    except OSError as error:
        advice = f"make it readable, or correct corpora.{name}.path"
        folder = escaped(str(root / below))
        raise CorpusError(f"corpus {name}: {folder} can't be listed ({error.strerror}); {advice}") from None
    return iter(
        [
            (f"{below}/{entry.name}" if below else entry.name, entry.is_dir(follow_symlinks=False))
            for entry in entries
            if not (entry.is_symlink() and entry.is_dir())
        ]
    )


def _any_of(patterns: list[str], *, hidden: bool) -> glob.WcMatcher[str]:
    """Matches a relative path against the patterns; wildcards match names with a leading dot only if `hidden`."""
    flags = glob.GLOBSTAR | glob.FORCEUNIX | (glob.DOTGLOB if hidden else 0)
    return glob.compile([pattern.strip("/") for pattern in patterns], flags=flags, limit=0)
