import math
from functools import partial

import numpy as np
import pyarrow as pa
import pytest
import torch

from logitlake.pipeline.evaluation.evaluate import EVALUATION_COLUMNS, evaluate, held_out_rows, load_student
from logitlake.pipeline.evaluation.tally import Tally
from logitlake.pipeline.teachers.engines.transformers_engine import TransformersEngine
from logitlake.storage.errors import MismatchError, SettingsError

V = 211
RECIPE = {"temperature": 1.0, "vocabulary": V, "sparsifier": {"name": "varopt", "threshold": 0.05}}


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def models(tiny_llama):
    return partial(tiny_llama, initializer_range=0.4, tie_word_embeddings=False)


@pytest.fixture(scope="module")
def teacher(models):
    return models(0)


@pytest.fixture
def rows(make_rows):
    return make_rows([9, 30, 4, 17, 25]).select(list(EVALUATION_COLUMNS))


def by_hand(student, teacher, rows):
    """Metrics in float64, sequence by sequence, position by position."""
    losses, gaps, agreed, confidences, correct = [], [], [], [], []
    for row in rows.to_pylist():
        ids = torch.tensor([row["input_ids"]])
        with torch.no_grad():
            q = student(ids).logits[0].double().log_softmax(-1)
            p = teacher(ids).logits[0].double().log_softmax(-1)
        for i, targets in enumerate(row["target_ids"]):
            if not targets:
                continue
            losses.append(-q[i, row["input_ids"][i + 1]].item())
            gaps.append((p[i].exp() * (p[i] - q[i, :V])).sum().item())
            agreed.append(q[i].argmax().item() == p[i].argmax().item())
            confidences.append(q[i].max().exp().item())
            correct.append(q[i].argmax().item() == row["input_ids"][i + 1])
    bins = np.minimum((np.array(confidences) * 15).astype(int), 14)
    gap = [abs(np.sum(np.array(confidences)[bins == b]) - np.sum(np.array(correct)[bins == b])) for b in range(15)]
    return np.mean(losses), np.mean(gaps), np.mean(agreed), np.sum(gap) / len(losses), len(losses)


def test_metrics_from_the_teacher_equal_a_float64_reference(models, teacher, rows):
    student = models(1)
    engine = TransformersEngine(teacher, vocab_size=V)
    found = evaluate({"s": student}, [rows], RECIPE, engine=engine, autocast=False)
    loss, kl, agreement, calibration, n = by_hand(student, teacher, rows)
    metrics = found.students["s"]
    assert found.exact
    assert metrics.n_targets == n
    assert metrics.cross_entropy == pytest.approx(loss, rel=1e-5)
    assert metrics.kl == pytest.approx(kl, rel=1e-4)
    assert metrics.top1_agreement == pytest.approx(agreement)
    assert metrics.calibration_error == pytest.approx(calibration, rel=1e-4)
    assert found.teacher.cross_entropy == pytest.approx(by_hand(teacher, teacher, rows)[0], rel=1e-5)
    assert found.teacher.kl == 0
    assert found.teacher.top1_agreement == 1


@pytest.mark.parametrize("with_engine", [True, False])
def test_losses_by_document_are_the_sums_over_its_sequences(models, teacher, make_rows, with_engine):
    rows = make_rows([9, 30, 4, 17, 25]).select(list(EVALUATION_COLUMNS))
    at = rows.schema.get_field_index("doc_id")
    rows = rows.set_column(at, "doc_id", pa.array(["b", "a", "b", "c", "a"]))
    engine = TransformersEngine(teacher, vocab_size=V) if with_engine else None
    found = evaluate({"s": models(1)}, [rows.slice(0, 3), rows.slice(3)], RECIPE, engine=engine, autocast=False)
    by_document = found.documents["s"].to_pylist()
    assert [row["doc_id"] for row in by_document] == ["a", "b", "c"]
    for row in by_document:
        own = rows.filter(pa.array([doc_id == row["doc_id"] for doc_id in rows["doc_id"].to_pylist()]))
        alone = evaluate({"s": models(1)}, [own], RECIPE, engine=engine, autocast=False)
        assert row["n_targets"] == alone.students["s"].n_targets
        assert row["student_loss"] / row["n_targets"] == pytest.approx(alone.students["s"].cross_entropy, rel=1e-5)
        assert row["teacher_loss"] / row["n_targets"] == pytest.approx(alone.teacher.cross_entropy, rel=1e-5)
        assert row["kl"] / row["n_targets"] == pytest.approx(alone.students["s"].kl, rel=1e-4, abs=1e-5)


def test_the_teacher_as_its_own_student_diverges_by_nothing(teacher, rows):
    engine = TransformersEngine(teacher, vocab_size=V)
    metrics = evaluate({"s": teacher}, [rows], RECIPE, engine=engine, autocast=False).students["s"]
    assert metrics.kl == pytest.approx(0, abs=1e-6)
    assert metrics.top1_agreement == 1


@pytest.mark.parametrize("with_engine", [True, False])
def test_neither_batching_nor_the_cut_into_tables_changes_a_metric(models, teacher, rows, with_engine):
    engine = TransformersEngine(teacher, vocab_size=V) if with_engine else None
    options = {"engine": engine, "autocast": False}
    one = evaluate({"s": models(1)}, [rows], RECIPE, batch_sequences=5, **options).students["s"]
    other = evaluate({"s": models(1)}, [rows.slice(0, 2), rows.slice(2)], RECIPE, batch_sequences=1, **options)
    for name, value in one.to_dict().items():
        assert other.students["s"].to_dict()[name] == pytest.approx(value, rel=1e-4), name


def test_one_pass_of_the_teacher_serves_all_students(models, teacher, rows):
    class Counting(TransformersEngine):
        forwards = 0

        def forward(self, input_ids, wanted):
            Counting.forwards += 1
            return super().forward(input_ids, wanted)

    engine = Counting(teacher, vocab_size=V)
    both = evaluate({"a": models(1), "b": models(2)}, [rows], RECIPE, engine=engine, batch_sequences=5, autocast=False)
    assert Counting.forwards == 1
    alone = evaluate({"b": models(2)}, [rows], RECIPE, engine=engine, batch_sequences=5, autocast=False)
    assert both.students["b"] == alone.students["b"]


def test_a_student_with_padded_ids_pays_for_the_mass_on_them(models, teacher, rows):
    wide = models(1, vocab_size=V + 13)
    engine = TransformersEngine(teacher, vocab_size=V)
    metrics = evaluate({"s": wide}, [rows], RECIPE, engine=engine, autocast=False).students["s"]
    assert metrics.kl == pytest.approx(by_hand(wide, teacher, rows)[1], rel=1e-4)


def test_a_student_with_fewer_ids_than_the_teacher_is_refused(models, rows):
    with pytest.raises(MismatchError, match="expected at least 211 ids, as the teacher has, found 200"):
        evaluate({"s": models(1, vocab_size=200)}, [rows], RECIPE)


def captured(teacher, rows, seed, levels=64, threshold=0.05, nll_steps=(32,)):
    """The rows with targets drawn from the teacher by threshold sampling, entropies and nlls with them.

    Row r counts log-probabilities in `nll_steps[r % len(nll_steps)]` steps per nat.
    """
    rng = np.random.default_rng(seed)
    columns = {name: [] for name in ("target_ids", "head_codes", "entropy_codes", "nll_codes")}
    for number, row in enumerate(rows.to_pylist()):
        with torch.no_grad():
            p = teacher(torch.tensor([row["input_ids"]])).logits[0].double().softmax(-1).numpy()
        ids, codes, entropies, nlls = [], [], [], []
        for i, wanted in enumerate(row["target_ids"]):
            if not wanted:
                ids.append([]), codes.append([]), entropies.append(None), nlls.append(None)
                continue
            heads = [h for h in np.argsort(-p[i], kind="stable") if p[i, h] >= threshold]
            steps = np.floor(np.concatenate([[0], np.cumsum(p[i, heads]) * levels]) + rng.random()).astype(int)
            own = np.diff(steps)
            residual = 1 - own.sum() / levels
            n = math.ceil(residual / threshold)
            rest = p[i].copy()
            rest[heads] = 0
            drawn = np.searchsorted(np.cumsum(rest) / rest.sum(), (np.arange(n) + rng.random()) / max(n, 1))
            ids.append([int(h) for h in heads] + [int(d) for d in drawn])
            codes.append([int(c) for c in own])
            entropies.append(round(float(-(p[i] * np.log(p[i])).sum()) * 32))
            nlls.append(round(float(-np.log(p[i, row["input_ids"][i + 1]])) * nll_steps[number % len(nll_steps)]))
        for name, values in zip(columns, (ids, codes, entropies, nlls), strict=True):
            columns[name].append(values)
    for name, values in columns.items():
        at = rows.schema.get_field_index(name)
        rows = rows.set_column(at, rows.schema.field(at), pa.array(values, rows.schema.field(at).type))
    steps = [None if n == 32 else n for n in nll_steps] * rows.num_rows
    at = rows.schema.get_field_index("nll_steps_per_nat")
    return rows.set_column(at, rows.schema.field(at), pa.array(steps[: rows.num_rows], pa.int32()))


def test_kl_from_the_cache_is_the_exact_kl_within_its_error(models, teacher, make_rows):
    rows = make_rows([40] * 30, seed=4).select(list(EVALUATION_COLUMNS))
    student = models(1)
    exact = evaluate({"s": student}, [rows], RECIPE, engine=TransformersEngine(teacher, vocab_size=V), autocast=False)
    cached = evaluate({"s": student}, [captured(teacher, rows, seed=0)], RECIPE, autocast=False)
    ours, truth = cached.students["s"], exact.students["s"]
    assert not cached.exact
    assert 0 < ours.kl_stderr < 0.2 * truth.kl
    assert abs(ours.kl - truth.kl) < 3 * ours.kl_stderr
    assert ours.cross_entropy == pytest.approx(truth.cross_entropy, rel=1e-6)
    assert ours.calibration_error == pytest.approx(truth.calibration_error, rel=1e-5)
    assert ours.top1_agreement == pytest.approx(truth.top1_agreement, abs=0.05)
    assert cached.teacher.cross_entropy == pytest.approx(exact.teacher.cross_entropy, abs=1 / 64)


def test_log_probabilities_are_read_in_the_steps_that_each_row_names(models, teacher, make_rows):
    rows = make_rows([40] * 6, seed=4).select(list(EVALUATION_COLUMNS))
    exact = evaluate(
        {"s": models(1)}, [rows], RECIPE, engine=TransformersEngine(teacher, vocab_size=V), autocast=False
    ).teacher.cross_entropy
    fine, mixed = (
        evaluate({"s": models(1)}, [captured(teacher, rows, seed=0, nll_steps=steps)], RECIPE, autocast=False)
        for steps in ((1024,), (1024, 32, 256))
    )
    assert fine.teacher.cross_entropy == pytest.approx(exact, abs=1 / 2048)
    assert mixed.teacher.cross_entropy == pytest.approx(exact, abs=1 / 64)


def test_kl_is_not_made_up_where_mass_was_cut_off(models, make_rows):
    rows = make_rows([20], tail=False).select(list(EVALUATION_COLUMNS))
    found = evaluate({"s": models(1)}, [rows], RECIPE, autocast=False)
    metrics = found.students["s"]
    assert metrics.kl is None
    assert found.documents["s"]["kl"].null_count == found.documents["s"].num_rows
    assert metrics.kl_stderr is None
    assert math.isfinite(metrics.cross_entropy)


def test_kl_is_not_made_up_where_the_engine_gave_no_entropy(models, rows):
    at = rows.schema.get_field_index("entropy_codes")
    nulls = pa.array([[None] * len(row) for row in rows["input_ids"].to_pylist()], rows.schema.field(at).type)
    with_entropy, without = (
        evaluate({"s": models(1)}, [each], RECIPE, autocast=False).students["s"]
        for each in (rows, rows.set_column(at, rows.schema.field(at), nulls))
    )
    assert with_entropy.kl is not None
    assert without.kl is None
    assert without.cross_entropy == with_entropy.cross_entropy


def test_kl_is_not_made_up_for_another_temperature(models, rows):
    recipe = RECIPE | {"temperature": 2.0}
    assert evaluate({"s": models(1)}, [rows], recipe, autocast=False).students["s"].kl is None


def test_agreement_is_not_made_up_from_drawn_heads(models, rows):
    recipe = RECIPE | {"sparsifier": {"name": "random", "draws": 50}}
    assert evaluate({"s": models(1)}, [rows], recipe, autocast=False).students["s"].top1_agreement is None


def test_a_masked_position_counts_for_nothing(models, make_rows):
    rows = make_rows([30], masked=0.9).select(list(EVALUATION_COLUMNS))
    found = evaluate({"s": models(1)}, [rows], RECIPE, autocast=False).students["s"]
    assert found.n_targets == sum(rows["n_targets"].to_pylist()) < 10


def test_held_out_rows_stop_at_whole_sequences(memory_lake):
    from dataclasses import replace

    lake = memory_lake([[10, 10, 10], [10, 10]])
    row_set = replace(lake.row_set(), held_out=True)
    sizes = {
        limit: [n for t in held_out_rows(row_set, lake.fetch, max_tokens=limit) for n in t["n_tokens"].to_pylist()]
        for limit in (None, 1, 20, 25, 40, 999)
    }
    assert {limit: len(rows) for limit, rows in sizes.items()} == {None: 5, 1: 1, 20: 2, 25: 2, 40: 4, 999: 5}


def test_rows_that_a_student_may_have_seen_are_refused(memory_lake):
    lake = memory_lake([[10]])
    with pytest.raises(SettingsError, match="held_out=True"):
        list(held_out_rows(lake.row_set(), lake.fetch))


def test_a_directory_without_a_model_is_named(tmp_path):
    with pytest.raises(SettingsError, match="nowhere"):
        load_student(tmp_path / "nowhere")


def test_a_tally_of_nothing_knows_nothing():
    tally = Tally()
    assert math.isnan(tally.loss)
    assert tally.divergence is tally.agreement is tally.calibration_error is tally.divergence_stderr is None


def test_perfect_confidence_that_is_right_is_calibrated():
    tally = Tally()
    tally.add_confidence(torch.ones(10), torch.ones(10, dtype=torch.bool))
    assert tally.calibration_error == 0
    tally.add_confidence(torch.ones(10), torch.zeros(10, dtype=torch.bool))
    assert tally.calibration_error == 0.5
