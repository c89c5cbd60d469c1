"""Hugging Face datasets: saved by `save_to_disk`, a local folder, or from the hub, streamed."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from logitlake.pipeline.corpus.document import Document, Reject, document_builder, fields_of, optional_fields_of
from logitlake.pipeline.settings.corpus import CorpusSettings
from logitlake.storage.errors import CorpusError

_SAVED_MARKS = ("dataset_dict.json", "state.json")


class HuggingfaceCorpus(CorpusSettings):
    """A dataset of the Hugging Face hub, or saved in a directory."""

    is_local: ClassVar[bool] = False

    kind: Literal["huggingface"] = "huggingface"
    split: str = Field("train", description="which split")
    subset: str | None = Field(None, description="which configuration")
    revision: str | None = Field(None, description="which revision of a dataset on the hub")

    def read(self) -> Iterator[Document | Reject]:
        """The documents and rejects of one split; the source is `subset/split`, the line is the row's number from 1.

        Raises CorpusError if the dataset, its subset or its split can't be opened, or breaks off while it is read.
        """
        build = document_builder(self)
        source = f"{self.subset}/{self.split}" if self.subset else self.split
        rows = iter(_open(self))
        number = 0
        while True:
            try:
                row = next(rows)
            except StopIteration:
                return
            except Exception as error:  # datasets and its file systems raise nearly every kind
                raise _broken(self, error, f"broke off after row {number}") from error
            number += 1
            yield build(row, source, number)


def _open(settings: HuggingfaceCorpus) -> Iterable[Mapping[str, Any]]:
    # Takes a second to import, and only this kind of corpus needs it.
    import datasets

    path = Path(settings.path).expanduser()
    try:
        if any((path / mark).is_file() for mark in _SAVED_MARKS):
            loaded = datasets.load_from_disk(str(path))
            dataset = _choose_split(settings, loaded) if isinstance(loaded, dict) else loaded
        else:
            name = str(path) if path.exists() else settings.path
            dataset = datasets.load_dataset(
                name, settings.subset, split=settings.split, revision=settings.revision, streaming=True
            )
        columns = dataset.column_names or []
        # Only these columns: others may be images or sound, which are slow to decode.
        if fields := [field for field in (*fields_of(settings), *optional_fields_of(settings)) if field in columns]:
            dataset = dataset.select_columns(fields)
    except CorpusError:
        raise
    except Exception as error:  # datasets and its file systems raise nearly every kind
        raise _broken(settings, error, "can't be opened") from error
    return dataset


def _choose_split(settings: HuggingfaceCorpus, splits: Mapping[str, Any]) -> Any:
    if settings.split not in splits:
        names = ", ".join(splits)
        message = f"has no split {settings.split!r}; its splits: {names}; correct corpora.{settings.name}.split"
        raise CorpusError(f"corpus {settings.name}: dataset {settings.path} {message}")
    return splits[settings.split]


def _broken(settings: HuggingfaceCorpus, error: Exception, what: str) -> CorpusError:
    advice = f"correct corpora.{settings.name} (path, subset, split, revision), or repair the network"
    return CorpusError(
        f"corpus {settings.name}: dataset {settings.path} {what}: {type(error).__name__}: {error}; {advice}"
    )
