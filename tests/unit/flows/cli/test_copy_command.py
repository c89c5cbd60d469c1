"""Where `logitlake copy` writes: to a directory, or where a settings file says."""

from pathlib import Path

import pytest

from logitlake.flows.cli.commands.copy import _location
from logitlake.storage.errors import SettingsError


@pytest.mark.parametrize(
    "address",
    [
        "s3://bucket/lake",
        "s3:/bucket",
        "gs://bucket",
        "az://container",
        "postgres:host=h",
        "postgresql://h/d",
        "S3://b",
    ],
)
def test_the_address_of_a_bucket_or_a_server_is_no_directory(address: str) -> None:
    with pytest.raises(SettingsError, match=r"expected a directory or a settings file, found the address .* name that"):
        _location(address)


def test_a_directory_may_have_any_other_name(tmp_path: Path) -> None:
    for name in ("copy", "s3", "my lake: copy", "C:copy"):
        assert _location(str(tmp_path / name)).data == f"{tmp_path / name}/data/"
