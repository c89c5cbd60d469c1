"""Which files of a directory belong to a corpus: patterns in, a sorted stream of paths out.

Patterns are matched against the path below the corpus root, in posix form. `*`, `?` and `[...]` stay inside one name,
`**` is any number of directories, a leading `!` excludes. As in a shell, a wildcard does not match a name that starts
with a dot, so `.git` stays out unless it is named, and a backslash takes the next character as it is. Linked
directories are not followed: they may form a circle.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from wcmatch import glob

from logitlake.storage.errors import CorpusError


class CorpusFile(NamedTuple):
    """One file: its path, and its name relative to the corpus root."""

    path: Path
    source: str


def corpus_files(name: str, path: str, patterns: tuple[str, ...], default: tuple[str, ...]) -> Iterator[CorpusFile]:
    """The files of the corpus `name`: `path` itself, or the files below it that match, sorted by directory.

    Patterns that only exclude choose from `default`. Raises CorpusError if no file matches or a listing fails.
    """
    root = Path(path).expanduser()
    try:
        is_directory = root.is_dir()
        root.stat()
    except OSError as error:
        hint = f"correct corpora.{name}.path (relative paths start at {Path.cwd()})"
        raise CorpusError(f"corpus {name}: {root} can't be read ({error.strerror}); {hint}") from None
    if not is_directory:
        yield CorpusFile(root, root.name)
        return
    includes = [pattern for pattern in patterns if not pattern.startswith("!")] or list(default)
    excludes = [pattern[1:] for pattern in patterns if pattern.startswith("!")]
    included = _any_of(includes, hidden=False)
    excluded = _any_of(excludes, hidden=True) if excludes else None
    empty = True
    for source in _walk(name, root, ""):
        if included.match(source) and not (excluded and excluded.match(source)):
            empty = False
            yield CorpusFile(root / source, source)
    if empty:
        expected = ", ".join([*includes, *(f"!{pattern}" for pattern in excludes)])
        raise CorpusError(
            f"corpus {name}: no file below {root} matches {expected}; correct corpora.{name}.glob or its path"
        )


def unreadable(name: str, file: CorpusFile, error: OSError) -> CorpusError:
    """The error for a file of the corpus that is there but can't be opened."""
    advice = f"make it readable, or leave it out with glob: ['!{file.source}']"
    return CorpusError(f"corpus {name}: {file.path} can't be read ({error.strerror or error}); {advice}")


def _walk(name: str, root: Path, below: str) -> Iterator[str]:
    """Relative paths of all files, names of one directory in order; memory is one listing per level."""
    try:
        with os.scandir(root / below) as listing:
            entries = sorted(listing, key=lambda entry: entry.name)
    except OSError as error:
        advice = f"make it readable, or correct corpora.{name}.path"
        raise CorpusError(f"corpus {name}: {root / below} can't be listed ({error.strerror}); {advice}") from None
    for entry in entries:
        relative = f"{below}/{entry.name}" if below else entry.name
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(name, root, relative)
        elif entry.is_file() or (entry.is_symlink() and not entry.is_dir()):
            yield relative


def _any_of(patterns: list[str], *, hidden: bool) -> glob.WcMatcher[str]:
    """Matches a relative path against the patterns; wildcards match names with a leading dot only if `hidden`."""
    flags = glob.GLOBSTAR | glob.FORCEUNIX | (glob.DOTGLOB if hidden else 0)
    return glob.compile([pattern.strip("/") for pattern in patterns], flags=flags, limit=0)
