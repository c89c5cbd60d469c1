"""Settings that would do nothing, or could do nothing good, are refused before anything is paid for."""

import pytest

from logitlake.pipeline.settings.models import Config


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"target": {"sparsifier": "random", "levels": 64}}, "as many `levels` as `draws`"),
        ({"target": {"threshold": 1e-7}}, "threshold"),
        ({"target": {"logprob_steps_per_nat": 31}}, "greater than or equal to 32"),
        ({"target": {"logprob_steps_per_nat": 1025}}, "less than or equal to 1024"),
        ({"student": {"source": "checkpoint", "model": "x", "layers": 3}}, "leave out `layers`"),
        ({"student": {"source": "teacher", "model": "x", "layers": 3}}, "leave out `model`"),
        ({"student": {"source": "checkpoint"}}, "needs `model`"),
        ({"student": {"source": "teacher"}}, "needs `layers`"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(sections, message):
    with pytest.raises(ValueError, match=message):
        Config(**sections)
