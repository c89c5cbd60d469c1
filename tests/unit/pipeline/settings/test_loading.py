"""Settings that would do nothing, or could do nothing good, are refused before anything is paid for."""

import pytest

from logitlake.pipeline.settings.loading import load_config
from logitlake.pipeline.settings.models import Config
from logitlake.storage.errors import SettingsError


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


def test_an_override_of_the_sparsifier_removes_the_settings_of_the_former_one(tmp_path):
    path = tmp_path / "logitlake.yaml"
    path.write_text("target: {threshold: 0.1, levels: 16}\n")
    target = load_config(path, ["target.sparsifier=top_k", "target.k=7"]).target
    assert (target.sparsifier, target.k, target.levels) == ("top_k", 7, 16)
    assert load_config(path, ["target.sparsifier=varopt"]).target.threshold == 0.1
    with pytest.raises(SettingsError, match="a setting of sparsifier random"):
        load_config(path, ["target.draws=3"])
