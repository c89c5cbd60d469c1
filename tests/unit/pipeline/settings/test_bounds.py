"""Every bound of every setting, found by walking the models: a value just outside is refused by name."""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin

import pytest
import yaml

from logitlake.pipeline.settings.by_name import SettingsByName
from logitlake.pipeline.settings.loading import load_config
from logitlake.pipeline.settings.models import Config, Settings, TargetSettings
from logitlake.pipeline.settings.registry import NameIn
from logitlake.pipeline.settings.yaml_file import inner_settings
from logitlake.storage.errors import SettingsError

# Settings that are valid around the one that is not.
AROUND: dict[str, Any] = {
    "corpora": [{"name": "c", "kind": "jsonl", "path": "x"}],
    "teacher": {"model": "x"},
    "targets": [{}],
    "student": {"source": "checkpoint", "model": "x", "lora": {}},
}
# Numbers that may be anything, with the reason why.
UNBOUNDED: dict[str, str] = {
    "teacher.transformers.device_map": "torch knows which devices there are",
    "teacher.transformers.max_memory": "keys are numbers of devices",
    "generate.verifier.min_score": "rewards are any numbers",
}
BOUNDS = ("ge", "gt", "le", "lt")


@dataclass(frozen=True)
class Setting:
    """One field: the model that has it, and the keys that lead to it from the top of the settings."""

    model: type[Settings]
    keys: tuple[str | int, ...]

    @property
    def field(self) -> Any:
        return self.model.model_fields[self.keys[-1]]

    def __str__(self) -> str:
        chosen = self.model.model_fields[self.model.name_field].default if self._is_chosen else ""
        return ".".join(map(str, self.keys)) + (f" of {chosen}" if chosen else "")

    @property
    def _is_chosen(self) -> bool:
        return issubclass(self.model, SettingsByName) and not self.model.is_section()

    def settings_with(self, value: Any) -> str:
        """A settings file whose only fault is this value."""
        raw = json.loads(json.dumps(AROUND))
        node = raw
        for key in self.keys[:-1]:
            node = node[key] if isinstance(node, list) else node.setdefault(key, {})
        if self._is_chosen:
            node[self.model.name_field] = self.model.model_fields[self.model.name_field].default
        node[self.keys[-1]] = value
        return yaml.safe_dump(raw)


def settings_below(model: type[Settings], keys: tuple[str | int, ...] = ()) -> Iterator[Setting]:
    for name, field in model.model_fields.items():
        inner = inner_settings(field.annotation)
        here = (*keys, name) if name not in ("corpora", "targets") else (name, 0)
        if inner is None:
            yield Setting(model, here)
            continue
        yield from settings_below(inner, here)
        if issubclass(inner, SettingsByName):
            for choice in inner.registry.built_in:
                chosen = inner.model_of(choice)
                yield from (Setting(chosen, (*here, own)) for own in chosen.own_fields())


def words_of(annotation: Any) -> list[Any]:
    if get_origin(annotation) is Literal:
        return list(get_args(annotation))
    return [word for part in get_args(annotation) for word in words_of(part)]


def types_of(annotation: Any) -> set[Any]:
    return {annotation} if not get_args(annotation) else {t for part in get_args(annotation) for t in types_of(part)}


def values_outside(setting: Setting) -> list[Any]:
    """For each rule of a field the nearest value that breaks it."""
    field, values = setting.field, []
    whole = float not in types_of(field.annotation)
    for rule in field.metadata:
        if (low := getattr(rule, "ge", None)) is not None:
            values.append(low - 1 if whole else math.nextafter(low, -math.inf))
        if (high := getattr(rule, "le", None)) is not None:
            values.append(high + 1 if whole else math.nextafter(high, math.inf))
        values += [bound for name in ("gt", "lt") if (bound := getattr(rule, name, None)) is not None]
        if getattr(rule, "pattern", None) is not None or isinstance(rule, NameIn):
            values += ["no such !", ""]
    if words_of(field.annotation):
        values.append("no such word")
    if issubclass(setting.model, SettingsByName) and setting.keys[-1] == setting.model.name_field:
        values.append("no such name")
    return values


ALL = list(settings_below(Config))
CASES = [(setting, value) for setting in ALL for value in values_outside(setting)]


@pytest.mark.parametrize(("setting", "value"), CASES, ids=lambda part: str(part) or "empty")
def test_a_value_just_outside_a_bound_is_refused_by_name(setting: Setting, value: Any, tmp_path: Any) -> None:
    file = tmp_path / "logitlake.yaml"
    file.write_text(setting.settings_with(value), encoding="utf-8")
    with pytest.raises(SettingsError) as refused:
        load_config(file)
    lines = [line for line in str(refused.value).splitlines() if ".".join(map(str, setting.keys)) in line]
    assert lines, refused.value
    assert any(words in line for line in lines for words in ("expected", "is required")), refused.value


def test_the_settings_around_a_wrong_value_are_right(tmp_path: Any) -> None:
    file = tmp_path / "logitlake.yaml"
    for sparsifier in TargetSettings.registry.built_in:
        file.write_text(yaml.safe_dump(AROUND | {"target": {"sparsifier": sparsifier}}), encoding="utf-8")
        assert load_config(file).target.sparsifier == sparsifier


def test_every_number_has_a_bound_or_a_reason() -> None:
    free = {
        str(setting)
        for setting in ALL
        if types_of(setting.field.annotation) & {int, float}
        and not any(getattr(rule, name, None) is not None for rule in setting.field.metadata for name in BOUNDS)
    }
    assert free == set(UNBOUNDED)


def test_the_walk_meets_every_section_and_every_sparsifier() -> None:
    names = {str(setting) for setting in ALL}
    assert {"lake.held_out.share", "student.lora.rank", "corpora.0.split of huggingface"} <= names
    assert {
        "target.threshold of varopt",
        "target.draws of random",
        "target.k of top_k",
        "target.max_k of top_p",
    } <= names
    assert len(CASES) > 90


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("schedule.timezone=Mars/Olympus", "IANA"),
        ("schedule.capture=0 2 * *", "five fields"),
        ("tokenization.overlap=300", "half the window"),
    ],
)
def test_values_that_a_rule_of_their_own_refuses(override: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        load_config(None, (override,))
