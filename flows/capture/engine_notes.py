"""What a person should know of the engine before a capture is paid for."""

from logitlake.flows.capture.preparation import Prepared


def engine_notes(prepared: Prepared) -> list[str]:
    """A line for each limit of what is captured; none for a teacher known by its weights that gives everything."""
    lines = []
    if prepared.recipe.teacher_gives == "top_k":
        lines.append(
            f"engine {prepared.recipe.engine}: gives only the most probable ids, so that the targets are biased and "
            "the entropy is not known"
        )
    if prepared.teacher.is_replayed:
        lines.append(
            f"engine replay: no teacher runs; logits are those that engine {prepared.recipe.engine} gave to the "
            "capture that recorded them"
        )
    if prepared.files.served_as is not None:
        lines.append(
            f"teacher {prepared.files.served_as}: known only by this name on the server; nothing here can tell whether "
            "its weights change: set teacher.server.version to another text when they do"
        )
    return lines
