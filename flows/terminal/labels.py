"""Names of values as words for a person: `train_train_loss` is `training loss`. Scripts get the names as they are."""

import re

_WHOLE = {
    "train_train_loss": "training loss",
    "seconds": "took",
    "hours": "teacher time",
    "teacher_seconds": "teacher time",
    "writer_seconds": "writer time",
    "documents_seen": "documents read",
    "documents_known": "documents in the lake before",
    "stopped": "stopped because",
    "held_out_exact": "KL by the teacher itself",
}
_PHASES = {"train": "training", "before": "before training", "after": "after training", "teacher": "teacher"}
_MEASURES = ("cross_entropy", "kl", "kl_stderr", "top1_agreement", "calibration_error", "n_targets")
_WORDS = {"kl": "KL", "top1": "top-1", "stderr": "standard error", "id": "id"}
_COUNT = re.compile(r"(^|_)n_")


def label(name: str) -> str:
    """The words of a name: no `n_`, no underscore, the phase of a measurement behind it."""
    if name in _WHOLE:
        return _WHOLE[name]
    phase, _, rest = name.partition("_")
    if phase in ("before", "after", "teacher") and rest in _MEASURES:
        return f"{_words(rest)}, {_PHASES[phase]}"
    if phase == "train":
        return f"training {_words(rest)}"
    return _words(name)


def _words(name: str) -> str:
    return " ".join(_WORDS.get(word, word) for word in _COUNT.sub(r"\1", name).split("_"))
