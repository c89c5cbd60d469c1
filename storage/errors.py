"""What can go wrong, grouped by what the caller would do about it.

`ValueError` stays for a caller's mistake inside Python; these are the world's. Every message names the thing, what was
expected, what was found and what to do. The command line maps each group to one exit code.
"""


class LogitlakeError(Exception):
    """Base of every error that the project raises on purpose; its message is written for the person at the terminal."""

    exit_code = 1


class SettingsError(LogitlakeError):
    """A setting, a path or an argument is wrong: mend it and call again. Nothing was computed."""

    exit_code = 2


class CorpusError(LogitlakeError):
    """The corpus can't be read, or too much of it is unusable. What was committed before stays."""

    exit_code = 3


class MismatchError(LogitlakeError):
    """Two things that must agree do not (tokenizer and recipe, vocabulary and model): choose which one is right."""

    exit_code = 4


class LakeError(LogitlakeError):
    """The lake can't do what was asked of it. What was committed before stays."""

    exit_code = 5


class LakeMissingError(LakeError):
    """There is no lake at the place that was named."""


class FormatVersionError(LakeError):
    """The lake was written by a newer logitlake: upgrade before opening it."""


class ServerStartError(LogitlakeError):
    """The server that a flow needs did not start: give it longer, or name another."""


class LakeBusyError(LakeError):
    """Another process holds the commit lock, or won a race for the same commit: try again later."""

    exit_code = 6


class LostRaceError(LakeBusyError):
    """Another commit landed in between: what was read before is stale, look again and retry."""


class IntegrityError(LakeError):
    """Stored bytes are not the bytes that were committed: restore the named file, or forget and capture again."""

    exit_code = 7


class QueryError(LakeError):
    """A query was refused or failed: the message holds what the engine said."""

    exit_code = 2
