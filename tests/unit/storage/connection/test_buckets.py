"""Which data paths are taken, and that credentials come from the environment and go into DuckDB's secret only."""

import duckdb
import pytest

from logitlake.storage.connection.location import LakeLocation
from logitlake.storage.connection.object_store import configure_object_store
from logitlake.storage.errors import SettingsError
from logitlake.storage.sql.client_setup import client_lines

KEYS = {
    "s3": {"AWS_ACCESS_KEY_ID": "planted-aws-key", "AWS_SECRET_ACCESS_KEY": "planted-aws-secret"},
    "gs": {"GCS_ACCESS_KEY_ID": "planted-gcs-key", "GCS_SECRET_ACCESS_KEY": "planted-gcs-secret"},
}


@pytest.mark.parametrize(("scheme", "kind"), [("s3", "s3"), ("gs", "gcs")])
def test_each_kind_of_bucket_gets_a_secret_with_the_keys_of_the_environment(tmp_path, monkeypatch, scheme, kind):
    for variables in KEYS.values():
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
    location = LakeLocation.resolve(tmp_path, None, f"{scheme}://bucket/prefix")
    assert location.data == f"{scheme}://bucket/prefix/"
    with duckdb.connect() as connection:
        configure_object_store(connection, location)
        made = connection.execute("SELECT type, scope, secret_string FROM duckdb_secrets()").fetchall()
    ((found, scope, text),) = made
    assert (found, scope) == (kind, [f"{scheme}://bucket"])
    key, secret = KEYS[scheme].values()
    assert f"key_id={key}" in text
    assert secret not in text
    lines = "\n".join(client_lines(location))
    assert all(f"getenv('{name}')" in lines for name in KEYS[scheme])
    assert not any(value in lines + repr(location) for values in KEYS.values() for value in values.values())


@pytest.mark.parametrize("url", ["az://container/lake", "abfss://files/lake", "http://host/lake", "ftp://host/lake"])
def test_a_store_that_no_lake_can_have_is_refused_with_what_is_possible(tmp_path, url):
    scheme = url.partition(":")[0]
    with pytest.raises(SettingsError, match=f"expected a directory, s3://… or gs://…, found {scheme}://"):
        LakeLocation.resolve(tmp_path, None, url)


def test_a_refused_address_shows_no_password(tmp_path):
    with pytest.raises(SettingsError) as refused:
        LakeLocation.resolve(tmp_path, None, "https://user:planted-word@host/lake")
    assert "planted-word" not in str(refused.value)
