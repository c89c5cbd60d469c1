"""The default path of the page."""

from pathlib import Path

from logitlake.storage.connection.location import LakeLocation

FILE_NAME = "report.html"


def default_path(location: LakeLocation) -> Path:
    """`report.html` beside an embedded catalog; in the current directory where the catalog is a server."""
    return (location.state_directory or Path()) / FILE_NAME
