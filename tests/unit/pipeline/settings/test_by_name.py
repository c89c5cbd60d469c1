"""A name in a section decides what else the section may say."""

import pickle
from importlib.metadata import EntryPoint

import pytest

from logitlake.pipeline.settings.loading import load_config
from logitlake.pipeline.settings.models import Config, CorpusSettings, TargetSettings
from logitlake.pipeline.settings.registry import SPARSIFIERS
from logitlake.storage.errors import SettingsError


def refusal(*overrides: str) -> str:
    with pytest.raises(SettingsError) as refused:
        load_config(None, overrides)
    return str(refused.value)


def test_a_setting_of_another_sparsifier_is_refused_with_its_owner() -> None:
    message = refusal("target.sparsifier=random", "target.threshold=0.1")
    assert "target.threshold: a setting of sparsifier varopt, but here is sparsifier random: remove it" in message
    assert "sparsifier top_k" in refusal("target.k=3")


def test_a_setting_of_another_kind_of_corpus_is_refused_with_its_owner() -> None:
    message = refusal("corpora=[{name: a, kind: jsonl, path: x, split: train}]")
    assert "corpora.0.split: a setting of kind huggingface, but here is kind jsonl: remove it" in message


def test_a_misspelt_setting_is_told_with_the_settings_of_the_chosen_sparsifier() -> None:
    message = refusal("target.sparsifier=top_p", "target.maxk=3")
    assert "target.maxk: unknown setting; did you mean max_k?" in message
    assert "threshold" not in message


def test_an_unknown_name_is_told_with_the_names_there_are() -> None:
    assert "unknown sparsifier 'rndom', did you mean random? expected one of varopt, random, top_k, top_p" in refusal(
        "target.sparsifier=rndom"
    )
    assert "target.sparsifier: expected a text" in refusal("target.sparsifier=3")
    assert "corpora.0.kind: is required and not set" in refusal("corpora=[{name: a, path: x}]")


def test_calling_the_section_gives_the_chosen_settings() -> None:
    target = TargetSettings(sparsifier="top_p", p=0.5)  # type: ignore[call-arg]
    assert (type(target).__name__, target.model_dump()["p"]) == ("TopPSettings", 0.5)
    assert type(CorpusSettings(name="c", kind="huggingface", path="x")).__name__ == "HuggingfaceCorpus"
    with pytest.raises(ValueError, match="Field required"):
        CorpusSettings(name="c", path="x")  # type: ignore[call-arg]


def test_settings_survive_dumping_pickling_and_copying() -> None:
    config = load_config(
        None, ("target.sparsifier=random", "corpora=[{name: a, kind: huggingface, path: x, split: s}]")
    )
    assert Config.model_validate(config.model_dump(mode="json")) == config
    assert pickle.loads(pickle.dumps(config)) == config
    copied = config.target.model_copy(update={"draws": 3})
    assert (copied.model_dump()["draws"], type(copied)) == (3, type(config.target))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("json:dumps", "expected a subclass of TargetSettings, found <function dumps"),
        ("no_such_module:Settings", "No module named 'no_such_module'"),
    ],
)
def test_a_plug_in_that_is_no_model_or_can_not_be_imported_is_told_when_it_is_chosen(
    monkeypatch: pytest.MonkeyPatch, value: str, message: str
) -> None:
    entry = EntryPoint("odd", value, SPARSIFIERS.group)
    monkeypatch.setitem(SPARSIFIERS._providers, "odd", [entry])
    assert load_config(None, ("target.sparsifier=top_k",)).target.sparsifier == "top_k"
    assert "a setting of sparsifier varopt" in refusal("target.sparsifier=top_k", "target.threshold=0.1")
    assert message in refusal("target.sparsifier=odd")
