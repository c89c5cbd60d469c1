"""Passwords and secrets are hidden in whatever text quotes them."""

import pickle
from urllib.parse import quote

import pytest

from logitlake.storage.connection.location import LakeLocation
from logitlake.storage.errors import LakeError, SettingsError
from logitlake.storage.redaction import has_password, without_parts_of, without_secrets
from logitlake.storage.sql.client_setup import client_lines

PASSWORD = "hunter2+more"


@pytest.mark.parametrize(
    "text",
    [
        "postgres://bob:hunter2+more@host/db",
        "postgres://bob:hunter2%2Bmore@host/db",
        "postgres://bob:p@hunter2+more@host/db",
        "postgres://bob@corp:p/hunter2+more@host/db",
        "postgres://host/db?user=bob&password=hunter2+more",
        "http://:hunter2+more@host/api",
        "host=h password=hunter2+more user=bob",
        "host=h sslpassword = hunter2+more user=bob",
        "host=h PASSWORD=hunter2+more",
        "password='hunter2+more and' host=h",
        r"password='it\'s hunter2+more' host=h",
        r"password=it\ hunter2+more host=h",
        "ATTACH 'ducklake:postgres:host=h password=''x hunter2+more'''",
        "lake: {password: hunter2+more, host: h}",
        '{"host": "h", "password": "hunter2+more"}',
        "found {'password': 'x hunter2+more'}",
    ],
)
def test_a_password_is_never_shown(text):
    shown = without_secrets(f"can't open {text}: no route to h")
    assert "hunter2" not in shown and "more" not in shown
    assert "***" in shown and shown.startswith("can't open ")
    assert without_secrets(shown) == shown
    assert has_password(text) and "hunter2" not in str(LakeError(text))
    assert "hunter2" not in str(pickle.loads(pickle.dumps(LakeError(text))))


@pytest.mark.parametrize(
    "text", ["http://127.0.0.1:4200/api", "mail me@host", "the password of the catalog: wrong", "s3://bucket/a=b@c"]
)
def test_other_text_stays_as_it_is(text):
    assert without_secrets(text) == text and not has_password(text)


@pytest.mark.parametrize("variable", ["AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "HF_TOKEN", "PREFECT_API_KEY"])
def test_secrets_of_the_environment_are_hidden_as_they_are_and_encoded(variable, monkeypatch):
    monkeypatch.setenv(variable, "a secret/of+many")
    monkeypatch.setenv("https_proxy", "http://user:proxy%20password@127.0.0.1:9")
    text = f"said a secret/of+many, {quote('a secret/of+many', safe='')}, proxy password"
    assert without_secrets(text) == "said ***, ***, ***"


@pytest.mark.parametrize(
    ("connection", "error"),
    [
        ("postgres:postgres://u:p@words@host/db", 'could not translate host name "words@host" to address'),
        ("postgres:postgres://u:words/x@host/db", 'invalid integer value "words" for connection option "port"'),
        ("postgres:postgres://u:%zzwords@host/db", 'invalid percent-encoded token: "%zzwords@host/db"'),
    ],
)
def test_a_password_that_is_taken_for_something_else_is_not_quoted(connection, error):
    shown = without_parts_of(connection, error)
    assert "words" not in shown and shown.split('"')[0] == error.split('"')[0]


def test_an_error_about_a_catalog_of_another_kind_does_not_quote_its_password(tmp_path):
    with pytest.raises(SettingsError, match=r"lake\.catalog") as refused:
        LakeLocation.resolve(tmp_path, f"mysql:mysql://bob:{PASSWORD}@host/db")
    assert PASSWORD not in str(refused.value)


@pytest.mark.parametrize("catalog", ["postgres:host=h password=two words", "postgres:password=it's words host=h"])
def test_a_password_with_a_space_and_without_quotes_is_refused_and_not_quoted(catalog, tmp_path):
    with pytest.raises(SettingsError, match="put quotes around") as refused:
        LakeLocation.resolve(tmp_path, catalog)
    assert "words" not in str(refused.value)


@pytest.mark.parametrize(
    ("catalog", "attached"),
    [
        ("postgres://bob:x@hunter2@host/db", "postgres:postgres://bob@host/db"),
        ("postgres://host/db?password=hunter2&user=bob", "postgres:postgres://host/db?user=bob"),
        (r"postgres:host=h password=it\ hunter2 user=bob", "postgres:host=h user=bob"),
        ("postgres:host=h sslpassword='it hunter2' user=bob", "postgres:host=h user=bob"),
    ],
)
def test_the_lines_for_other_clients_hold_the_connection_without_the_password(catalog, attached, tmp_path):
    lines = "\n".join(client_lines(LakeLocation.resolve(tmp_path, catalog)))
    assert "hunter2" not in lines and f"'ducklake:{attached}'" in lines
