"""The reference answer of a prompt, for the verifiers that need one."""

from logitlake.pipeline.settings.verifier import Case
from logitlake.storage.errors import SettingsError


def reference_of(case: Case, verifier: str) -> str:
    """The reference of a case. Raises SettingsError if it has none."""
    if case.reference is None:
        raise SettingsError(
            f"generate.verifier {verifier}: expected a reference with each prompt, found none with that of trace "
            f"{case.doc_id}; name its field by generate.prompts.completion_field (with prompt_field), or let the chats "
            "end with the assistant's answer"
        )
    return case.reference
