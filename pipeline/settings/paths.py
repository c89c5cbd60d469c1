"""Settings that are paths: what no file system or library could take is refused when the settings are read."""

from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator

from logitlake.pipeline.settings.home import has_home


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _check(value: Any) -> Any:
    if not isinstance(value, str | Path):
        return value
    text = str(value)
    if not text.strip() or value == "":
        raise ValueError("expected a path or a name, found an empty text: correct it, or leave the setting out")
    if "\0" in text:
        raise ValueError("expected a path or a name, found a NUL character in it")
    # Text can't hold such bytes; a Path can, and who opens it decides.
    if isinstance(value, str) and not _is_utf8(value):
        raise ValueError("the path holds bytes that are not UTF-8: name it by a symbolic link whose name is UTF-8")
    if text.split("/")[0] == "~" and not has_home():
        raise ValueError("this user has no home directory: set HOME to one, or write the path out")
    if text.startswith("~"):
        try:
            Path(text).expanduser()
        except RuntimeError:
            raise ValueError(f"{text.split('/')[0]} is the home directory of no user; write the path out") from None
    return value


# A path as Path, and one as text: a hub id, a URL, or a path.
PathSetting = Annotated[Path, BeforeValidator(_check)]
PathText = Annotated[str, BeforeValidator(_check)]
