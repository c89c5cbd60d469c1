"""Why a line, a row or a file of a corpus can't be used."""

from enum import StrEnum


class RejectReason(StrEnum):
    """Why a line, a row or a file did not become a document with targets."""

    BAD_JSON = "bad_json"
    NOT_UTF8 = "not_utf8"
    MISSING_FIELD = "missing_field"
    REPEATED_KEY = "repeated_key"
    WRONG_TYPE = "wrong_type"
    EMPTY = "empty"
    TOO_SHORT = "too_short"
    TOO_LONG = "too_long"
    CORRUPT_FILE = "corrupt_file"
    NOT_A_FILE = "not_a_file"
    OUTSIDE_CORPUS = "outside_corpus"
    BAD_CHAT = "bad_chat"
    NO_TARGET = "no_target"


class UnusableError(Exception):
    """Raised for a record that can't be used; whoever reads the record makes a Reject of it."""

    def __init__(self, reason: RejectReason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail
