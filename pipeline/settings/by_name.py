"""Sections whose keys depend on a name in them: `sparsifier` decides what else `target` may say."""

from collections.abc import Mapping
from typing import Any, ClassVar, Self

from pydantic import ModelWrapValidatorHandler, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from logitlake.pipeline.settings.base import Settings
from logitlake.pipeline.settings.registry import Registry
from logitlake.storage.errors import SettingsError


class SettingsByName(Settings):
    """Base of such a section. The section's class has what all its models share; each registered model extends it.

    Validating or calling the section's class gives an object of the model that the name stands for.
    """

    registry: ClassVar[Registry]
    name_field: ClassVar[str]

    def __new__(cls, /, **values: Any) -> Self:
        """An object of the model that `values` name; Python then calls its `__init__`."""
        if not cls.is_section():
            return super().__new__(cls)
        model = cls.model_for(values)
        # Without a name there is no object to make: validation raises the error that says so.
        return cls.model_validate(values) if model is cls else super().__new__(model)

    @classmethod
    def is_section(cls) -> bool:
        """Whether this is the section's class, not the model of one name."""
        return "registry" in cls.__dict__

    @classmethod
    def model_for(cls, values: Mapping[Any, Any]) -> type[Self]:
        """The model that `values` choose; the section's class where they choose none that is registered."""
        name = cls._name_in(values)
        return cls.model_of(name) if name is not None and name in cls.registry else cls

    @classmethod
    def model_of(cls, name: str) -> type[Self]:
        """The registered model of a name. Raises SettingsError if there is none, or if it is something else."""
        model = cls.registry.load(name)
        if not (isinstance(model, type) and issubclass(model, cls)):
            raise SettingsError(
                f"{cls.registry.noun} {name!r} of {cls.registry.origin(name)}: expected a subclass of {cls.__name__}, "
                f"found {model!r}; update or uninstall that distribution"
            )
        return model

    @classmethod
    def own_fields(cls) -> list[str]:
        """The settings that only this model has."""
        return [name for name in cls.model_fields if name not in cls.section().model_fields]

    @classmethod
    def section(cls) -> "type[SettingsByName]":
        """The section's class, for the model of a name."""
        return next(base for base in cls.__mro__ if issubclass(base, SettingsByName) and base.is_section())

    @classmethod
    def _name_in(cls, values: Mapping[Any, Any]) -> str | None:
        """The name that `values` choose; None where this is the model of a name already, or where no text is given."""
        if not cls.is_section():
            return None
        name = values.get(cls.name_field, cls.model_fields[cls.name_field].default)
        return name if isinstance(name, str) else None

    @model_validator(mode="wrap")
    @classmethod
    def _validate_as_named(cls, values: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        if not isinstance(values, Mapping):
            return handler(values)
        if (name := cls._name_in(values)) is not None:
            if name not in cls.registry:
                raise _refusal(cls, cls.name_field, "unknown_name", cls.registry.unknown(name), name)
            return cls.model_of(name).model_validate(values)
        if not cls.is_section():
            cls._refuse_settings_of_other_names(values)
        return handler(values)

    @classmethod
    def _refuse_settings_of_other_names(cls, values: Mapping[Any, Any]) -> None:
        """Name the owner of the setting: "unknown setting" would suggest a typing error."""
        for key in values:
            if key in cls.model_fields:
                continue
            owners = [name for name in cls.registry.names() if key in own_fields_of(cls, name)]
            if owners:
                chosen = f"{cls.name_field} {cls.model_fields[cls.name_field].default}"
                message = f"a setting of {cls.name_field} {' and '.join(owners)}, but here is {chosen}: remove it"
                raise _refusal(cls, str(key), "setting_of_another", message, values[key])


def own_fields_of(model: type[SettingsByName], name: str) -> list[str]:
    """The settings that only this name has; none for a broken plug-in, which is an error only when it is chosen."""
    try:
        return model.section().model_of(name).own_fields()
    except SettingsError:
        return []


def _refusal(model: type[SettingsByName], field: str, kind: str, message: str, value: Any) -> ValidationError:
    error = PydanticCustomError(kind, "{message}", {"message": message})
    return ValidationError.from_exception_data(
        model.__name__, [InitErrorDetails(type=error, loc=(field,), input=value)]
    )
