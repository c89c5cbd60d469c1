"""A work unit can be computed in any process: what it needs can be pickled, and so can its rows."""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor

import pytest

from logitlake.flows.capture.preparation import prepare
from logitlake.pipeline.capture.compute import compute_unit, unload_teacher
from logitlake.pipeline.settings.models import Config


@pytest.mark.slow
def test_a_unit_computed_in_another_process_has_the_same_rows(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    prepared = prepare(config)
    unit = next(prepared.plan(lambda doc_ids: set()))
    arguments = {"recipe": prepared.recipe, "settings": config.capture}
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as others:
        elsewhere = others.submit(compute_unit, prepared.source, unit, **arguments)
        here = compute_unit(prepared.source, unit, **arguments)
        unload_teacher()
        assert elsewhere.result().rows.equals(here.rows)
    assert here.rows.num_rows == sum(len(document.sequences) for document in unit.documents) > 0
