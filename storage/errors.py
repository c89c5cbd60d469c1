"""The errors of the project, grouped by what the caller would do about them.

`ValueError` is for mistakes of the calling code; these errors come from outside it. Every message names the thing, what
was expected, what was found and what to do. The command line maps each group to one exit code.
"""

from logitlake.storage.redaction import without_secrets


class LogitlakeError(Exception):
    """Base of every error that the project raises on purpose; its message is written for the person at the terminal."""

    exit_code = 1

    def __init__(self, message: str) -> None:
        """`message` may quote settings and other programs: secrets in it are hidden."""
        super().__init__(without_secrets(message))


class SettingsError(LogitlakeError):
    """A setting, a path or an argument is wrong: correct it and call again. Nothing was computed."""

    exit_code = 2


class CorpusError(LogitlakeError):
    """The corpus can't be read, or too much of it is unusable. What was committed before stays."""

    exit_code = 3


class MismatchError(LogitlakeError):
    """Two things that must agree differ (tokenizer and recipe, vocabulary and model): choose which one is right."""

    exit_code = 4


class TeacherUnavailableError(LogitlakeError):
    """The server that runs the teacher did not answer, or was too busy. What was committed before stays: call again."""

    exit_code = 8


class LakeError(LogitlakeError):
    """The lake can't do what was asked. What was committed before stays."""

    exit_code = 5


class LakeMissingError(LakeError):
    """There is no lake at the given location."""


class FormatVersionError(LakeError):
    """The lake was written by a newer logitlake: upgrade before opening it."""


class ServerStartError(LogitlakeError):
    """The server that a flow needs did not start: raise its timeout, or name another server."""


class ServerLostError(LogitlakeError):
    """The server that shows a flow went away during the run. What was committed before stays: call again."""


class UploadError(LogitlakeError):
    """The Hub was not reached, or did not take what was to be uploaded. The files on disk stay: upload them again."""


class OutOfMemoryError(LogitlakeError):
    """The process may have no more memory: give it more and call again. No file is to blame."""


class LakeBusyError(LakeError):
    """Another process holds the commit lock, or committed first: try again later."""

    exit_code = 6


class LostRaceError(LakeBusyError):
    """Another commit landed in between: what was read before is stale, read it again and retry."""


class UnreachableError(LostRaceError):
    """The server of the catalog went away, and nothing was committed: it is worth trying again for a while."""


class IntegrityError(LakeError):
    """Stored bytes are not the bytes that were committed: restore the named file, or repair and capture again."""

    exit_code = 7


class QueryError(LakeError):
    """A query was refused or failed: the message contains that of the engine."""

    exit_code = 2
