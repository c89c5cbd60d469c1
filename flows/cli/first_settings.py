"""The text of a first logitlake.yaml: the corpora of a survey, and the few settings that everybody looks at."""

from pathlib import Path

from logitlake.pipeline.corpus.names import escaped
from logitlake.pipeline.corpus.survey.survey import BYTES_PER_TOKEN, CorpusDraft, Survey
from logitlake.pipeline.settings.yaml_file import scalar

_COLUMN = 44
# Of fewer documents, 5 % may be none.
_FEW_DOCUMENTS = 200
_SHOWN_FIELDS = 8
_SHOWN_LEFT_OUT = 20


def first_settings(survey: Survey, root: Path, *, teacher: str | None, layers: int, window: int) -> str:
    """Settings as YAML with comments; the teacher stands commented out if it is None."""
    n_documents = sum(draft.n_documents for draft in survey.corpora)
    lines = [
        f"# Settings for the documents in {_named(root)}, written by `logitlake init`.",
        "# Relative paths start at the directory in which a command is run. Every other setting has its default:",
        "# `logitlake show config` prints all settings, with what they mean.",
        "",
        "lake:",
        _line("  path: lake", "a directory, made by the first capture"),
        *_held_out(n_documents),
        "",
        *_corpora(survey),
        "",
        *_teacher(teacher),
        "",
        "tokenization:",
        _line(f"  window: {window}", "tokens per sequence at most; longer documents are split"),
        "",
        "target:",
        _line("  threshold: 0.05", "smaller: more bytes and less noise; 0.05 is about 17 bytes per token"),
        "",
        "student:",
        _line("  source: teacher", "cut from the teacher; `checkpoint` continues from a model of your own"),
        _line(f"  layers: {layers}", "of the teacher's layers, evenly spaced; a third is a good start"),
        "",
        "training:",
        _line("  output: student", "a new directory for each student"),
        *_training(n_documents),
    ]
    return "\n".join(lines) + "\n"


def documents_text(draft: CorpusDraft) -> str:
    """Such as `3 files, about 1,204 documents, about 340,000 tokens`."""
    files = f"{draft.n_files:,} file{'s' * (draft.n_files != 1)}"
    about = "" if draft.is_exact else "about "
    documents = f"{about}{draft.n_documents:,} document{'s' * (draft.n_documents != 1)}"
    return f"{files}, {documents}, about {draft.n_tokens:,} tokens"


def _training(n_documents: int) -> list[str]:
    """Small steps and two passes over a small corpus, or training would end before it has begun."""
    epochs, sequences, rate = (2, 4, "0.0005") if n_documents < _FEW_DOCUMENTS else (1, 8, "0.0003")
    return [
        _line(f"  epochs: {epochs}"),
        _line(f"  batch_sequences: {sequences}", "per step and device"),
        _line(f"  learning_rate: {rate}"),
    ]


def _named(root: Path) -> str:
    return "this directory" if root == Path() else escaped(str(root))


def _held_out(n_documents: int) -> list[str]:
    if n_documents >= _FEW_DOCUMENTS:
        return []
    note = "of the documents, for evaluation; fixed when the lake is made"
    return ["  held_out:", _line("    share: 0.2", note)]


def _corpora(survey: Survey) -> list[str]:
    lines = [
        f"# Tokens are estimates: one for {BYTES_PER_TOKEN} bytes of text. `logitlake plan` counts them.",
        "corpora:",
    ]
    for draft in survey.corpora:
        lines.append(f"  # {draft.shape}: {documents_text(draft)}")
        if draft.other_fields:
            shown = ", ".join(map(escaped, draft.other_fields[:_SHOWN_FIELDS]))
            more = ", …" if len(draft.other_fields) > _SHOWN_FIELDS else ""
            lines.append(f"  # fields that are not read: {shown}{more}")
        first, *rest = [f"{name}: {scalar(value)}" for name, value in draft.settings.items()]
        lines += [f"  - {first}", *(f"    {line}" for line in rest)]
    for sentence in survey.left_out[:_SHOWN_LEFT_OUT]:
        lines.append(f"# left out: {' '.join(sentence.split())}")
    if len(survey.left_out) > _SHOWN_LEFT_OUT:
        lines.append(f"# left out: {len(survey.left_out) - _SHOWN_LEFT_OUT:,} more")
    return lines


def _teacher(teacher: str | None) -> list[str]:
    if teacher is not None:
        return ["teacher:", _line(f"  model: {scalar(teacher)}", "a Hugging Face id or a directory")]
    return [
        "# Fill in: the model that is run once, as a Hugging Face id or a directory; then remove `# `.",
        "# teacher:",
        "#   model: HuggingFaceTB/SmolLM2-1.7B-Instruct",
    ]


def _line(text: str, note: str = "") -> str:
    return f"{text:<{_COLUMN}} # {note}" if note else text
