"""Upload an exported directory to the Hugging Face Hub, as one commit."""

from pathlib import Path

from huggingface_hub import HfApi, constants, get_token
from huggingface_hub.errors import HFValidationError, OfflineModeIsEnabled
from huggingface_hub.errors import HTTPError as HubError  # type: ignore[attr-defined]
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from logitlake.storage.errors import MismatchError, SettingsError, UploadError
from logitlake.storage.row_sets.export import NOTE

# What the Hub or a person puts into a repository before there is data.
_HARMLESS = (".gitattributes", "README.md", "LICENSE")
_AGAIN = "the export is on disk: export to another directory with --push again, or upload it by `hf upload`"


def check_push(repository: str) -> None:
    """Raises SettingsError if the upload can't succeed: a name that the Hub does not allow, no token, offline mode."""
    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        raise SettingsError(
            f"--push {repository!r}: expected the name of a data set such as me/targets: {error}"
        ) from None
    if constants.HF_HUB_OFFLINE:
        raise SettingsError(f"--push {repository}: offline mode is on: unset HF_HUB_OFFLINE, or leave --push out")
    if get_token() is None:
        raise SettingsError(
            f"--push {repository}: expected a token of the Hugging Face Hub, found none: set HF_TOKEN, or run "
            "`hf auth login`"
        )


def push(directory: Path, repository: str, *, public: bool, message: str) -> str:
    """Upload the directory to a data set, which is made if there is none; returns the URL of the commit.

    Data files of an earlier export of this split that are not in this one are deleted by the same commit; their history
    stays. Only pieces that the Hub does not hold are sent. Raises MismatchError for a repository with files that are no
    export of a lake, UploadError if the Hub is not reached or refuses.
    """
    api = HfApi()
    try:
        api.create_repo(repository, repo_type="dataset", private=not public, exist_ok=True)
        _check_is_ours(repository, api.list_repo_files(repository, repo_type="dataset"))
        commit = api.upload_folder(
            repo_id=repository,
            repo_type="dataset",
            folder_path=directory,
            commit_message=message,
            delete_patterns=[f"data/{split}-*" for split in _splits(directory)],
        )
    except (HubError, OfflineModeIsEnabled, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UploadError(f"push to {repository}: {reason}; {_AGAIN}") from None
    return str(commit.commit_url)


def _check_is_ours(repository: str, files: list[str]) -> None:
    others = [name for name in files if name not in _HARMLESS]
    if others and NOTE not in files:
        raise MismatchError(
            f"push to {repository}: expected a new repository, or one with the {NOTE} of an earlier export, found "
            f"{others[0]} and no {NOTE}: it is no export of a lake; name another repository; {_AGAIN}"
        )


def _splits(directory: Path) -> list[str]:
    """The splits of an export: of `data/train-00000.parquet` it is train."""
    return sorted({file.stem.rpartition("-")[0] for file in directory.glob("data/*-*.parquet")})
