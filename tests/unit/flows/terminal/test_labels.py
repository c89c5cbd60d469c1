"""Names of values as words."""

import pytest

from logitlake.flows.terminal.labels import label


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("train_train_loss", "training loss"),
        ("train_steps", "training steps"),
        ("before_kl", "KL, before training"),
        ("after_top1_agreement", "top-1 agreement, after training"),
        ("teacher_cross_entropy", "cross entropy, teacher"),
        ("teacher_seconds", "teacher time"),
        ("n_tokens", "tokens"),
        ("after_n_targets", "targets, after training"),
        ("teacher", "teacher"),
        ("run_id", "run id"),
    ],
)
def test_a_name_is_shown_as_words(name: str, words: str) -> None:
    assert label(name) == words
