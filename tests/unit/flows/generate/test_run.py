"""Traces from prompts to the lake, to targets and to a student, on tiny models."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from logitlake.flows.generate.preparation import prepare_writer
from logitlake.flows.generate.run import GenerateRun
from logitlake.flows.reports import GenerateReport
from logitlake.pipeline.settings.models import Config
from logitlake.storage.connection.location import LakeLocation
from logitlake.storage.errors import MismatchError, SettingsError
from logitlake.storage.identity import document_id, held_out
from logitlake.storage.lake.lake import Lake
from logitlake.storage.upkeep.forgetting import forget
from tests.tiny_lake import capture_all, text_of, tiny_settings

N_PROMPTS = 12


def generate_all(config: Config) -> GenerateReport:
    """What the flow does, without Prefect."""
    with GenerateRun(config) as run:
        for number in run.units():
            run.commit(run.compute(number))
    return run.report


@pytest.fixture
def settings(raw_config: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    return settings_in(tmp_path, raw_config)


def settings_in(directory: Path, raw_config: dict[str, Any]) -> dict[str, Any]:
    """Questions with answers, two samples for each."""
    path = directory / "questions.jsonl"
    lines = [{"question": f"{text_of(number)}?", "answer": str(number)} for number in range(N_PROMPTS)]
    path.write_bytes(b"\n".join(map(orjson.dumps, [*lines, lines[0], {"question": "", "answer": ""}])) + b"\n")
    prompts = {"name": "questions", "kind": "jsonl", "path": str(path)}
    prompts |= {"prompt_field": "question", "completion_field": "answer"}
    return raw_config | {
        "generate": {"prompts": prompts, "samples": 2, "max_new_tokens": 6, "unit_prompts": 5, "batch_sequences": 16},
        "corpora": [{"name": "traces", "kind": "traces"}],
        "target": {"logprob_steps_per_nat": 1024},
    }


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory, tiny_teacher: Path, corpus_file: Path, _own_cache: None) -> Path:
    """A lake with every sample of `settings`, made once."""
    directory = tmp_path_factory.mktemp("generated")
    config = changed(settings_in(directory, tiny_settings(directory, tiny_teacher, corpus_file)))
    generate_all(config)
    return config.lake.path


@pytest.fixture
def generated(settings: dict[str, Any], template: Path) -> Config:
    """The settings, and a copy of the lake that they give."""
    config = changed(settings)
    shutil.copytree(template, config.lake.path)
    return config


def changed(settings: dict[str, Any], **generate: Any) -> Config:
    return Config.model_validate(settings | {"generate": settings["generate"] | generate})


def rows(config: Config, query: str) -> list[dict[str, Any]]:
    with Lake.open(LakeLocation.resolve(config.lake.path)) as lake:
        found: list[dict[str, Any]] = lake.sql(query).to_pylist()
    return found


def test_every_prompt_gets_its_samples_once_and_a_second_run_has_nothing_to_do(settings: dict[str, Any]) -> None:
    config = changed(settings)
    first, second = generate_all(config), generate_all(config)
    assert (first.n_units, first.n_traces, first.n_kept) == (3, 2 * N_PROMPTS, 2 * N_PROMPTS)
    assert (first.prompts, first.prompts_repeated, first.prompts_rejected) == (N_PROMPTS, 1, 1)
    assert (second.n_units, second.n_traces, second.samples_stored) == (0, 0, 2 * N_PROMPTS)
    assert len(rows(config, "SELECT DISTINCT prompt_id, sample_number FROM traces")) == 2 * N_PROMPTS
    assert rows(config, "SELECT reason FROM rejects") == [{"reason": "empty"}]


def test_more_samples_and_more_prompts_cost_only_the_new_ones(settings: dict[str, Any]) -> None:
    before = generate_all(changed(settings, max_prompts=4))
    some = rows(changed(settings), "SELECT doc_id FROM traces")
    after = generate_all(changed(settings, samples=3))
    assert (before.n_traces, after.n_traces) == (8, 3 * N_PROMPTS - 8)
    now = rows(changed(settings), "SELECT doc_id FROM traces")
    assert all(row in now for row in some)


@pytest.mark.slow
def test_other_unit_and_batch_sizes_write_the_same_traces(settings: dict[str, Any], tmp_path: Path) -> None:
    written = []
    for number, (unit, batch) in enumerate(((5, 4), (3, 1), (100, 24))):
        lake = {"lake": {"path": str(tmp_path / f"lake-{number}")}}
        config = changed(settings | lake, unit_prompts=unit, batch_sequences=batch)
        generate_all(config)
        written.append(rows(config, "SELECT doc_id, sample_number FROM traces ORDER BY ALL"))
    assert written[0] == written[1] == written[2]


def test_another_sampling_is_written_beside_the_first(settings: dict[str, Any], generated: Config) -> None:
    assert generate_all(changed(settings, temperature=0.5)).n_traces == 2 * N_PROMPTS
    assert len(rows(changed(settings), "SELECT DISTINCT sampling_id FROM traces")) == 2


def test_another_verifier_judges_the_same_traces_again_without_the_writer(
    settings: dict[str, Any], generated: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(GenerateRun, "_loaded", lambda run: pytest.fail("the writer was loaded"))
    config = changed(settings, verifier={"name": "regex", "pattern": "cat|a|t"})
    report = generate_all(config)
    assert (report.n_traces, report.n_tokens) == (0, 0)
    texts = {row["doc_id"]: row for row in rows(config, "SELECT doc_id, completion, is_kept FROM traces")}
    assert report.n_verdicts == len(texts)
    assert all(row["is_kept"] == any(word in row["completion"] for word in "at") for row in texts.values())
    assert generate_all(config).n_units == 0


@pytest.mark.slow
def test_the_ids_and_logprobs_in_the_cache_are_those_that_the_writer_gave(generated: Config) -> None:
    """The writer is the teacher, so that both log-probabilities of a token are the same."""
    config = generated
    report = capture_all(config)
    traces = {row["doc_id"]: row for row in rows(config, "SELECT * FROM traces")}
    assert report.n_documents == len(traces)
    for row in rows(config, "SELECT * FROM sequences"):
        trace = traces[row["doc_id"]]
        n_prompt, n = len(trace["prompt_ids"]), row["n_tokens"]
        assert row["input_ids"] == trace["prompt_ids"] + trace["completion_ids"]
        has_target = [bool(ids) for ids in row["target_ids"]]
        assert has_target == [n_prompt <= at + 1 < n for at in range(n)], "targets on the completion only"
        writer = [-code / 1024 for code in row["writer_nll_codes"] if code is not None]
        teacher = [-code / 1024 for code in row["nll_codes"] if code is not None]
        np.testing.assert_allclose(writer, trace["logprobs"], atol=0.6 / 1024)
        np.testing.assert_allclose(writer, teacher, atol=1.6 / 1024)
        assert (row["writer"], row["sample_number"]) == (trace["writer"], trace["sample_number"])
        assert (row["sampling_settings"], row["sampling_seed"]) == (trace["sampling"], 0)
        assert (row["verdict"], row["verdict_reason"]) == (1.0, "not verified")
    assert capture_all(config).n_documents == 0


@pytest.mark.slow
def test_a_long_trace_is_cut_into_windows_with_each_writer_logprob_once(settings: dict[str, Any]) -> None:
    settings["tokenization"] = {"window": 16, "overlap": 4}
    config = changed(settings, max_new_tokens=40, max_prompts=3, samples=1)
    generate_all(config)
    capture_all(config)
    for trace in rows(config, "SELECT doc_id, logprobs FROM traces"):
        windows = rows(
            config, f"SELECT writer_nll_codes FROM sequences WHERE doc_id = '{trace['doc_id']}' ORDER BY window_index"
        )
        codes = [code for row in windows for code in row["writer_nll_codes"] if code is not None]
        np.testing.assert_allclose([-code / 1024 for code in codes], trace["logprobs"], atol=0.6 / 1024)


@pytest.mark.slow
def test_only_what_the_verifier_keeps_is_captured_unless_told_otherwise(
    settings: dict[str, Any], generated: Config
) -> None:
    config = changed(settings, verifier={"name": "function", "call": "tests.unit.flows.generate.test_run:even_length"})
    generate_all(config)
    kept = {row["doc_id"] for row in rows(config, "SELECT doc_id FROM traces WHERE is_kept")}
    every = {row["doc_id"] for row in rows(config, "SELECT doc_id FROM traces")}
    assert 0 < len(kept) < len(every)
    capture_all(config)
    assert {row["doc_id"] for row in rows(config, "SELECT doc_id FROM documents")} == kept
    settings["corpora"] = [{"name": "traces", "kind": "traces", "where": "score IS NOT NULL"}]
    capture_all(changed(settings))
    assert {row["doc_id"] for row in rows(config, "SELECT doc_id FROM documents")} == every


def even_length(case: Any) -> float:
    return float(len(case.completion) % 2 == 0)


def test_no_prompt_is_on_both_sides_of_the_held_out_split(generated: Config) -> None:
    config = generated
    capture_all(config)
    sides = {
        (row["prompt"], row["held_out"])
        for row in rows(config, "SELECT doc_id[:32] AS prompt, held_out FROM documents")
    }
    assert len(sides) == N_PROMPTS and {side for _, side in sides} == {True, False}
    for number in range(N_PROMPTS):
        prompt = document_id(f"{text_of(number)}?")
        assert (prompt, held_out(prompt, salt="logitlake", share=0.2)) in sides


@pytest.mark.slow
def test_a_forgotten_prompt_is_not_answered_again(settings: dict[str, Any], generated: Config) -> None:
    config = generated
    capture_all(config)
    prompt = document_id(f"{text_of(3)}?")
    with Lake.open(LakeLocation.resolve(config.lake.path), read_only=False) as lake:
        gone = forget(lake, [prompt], reason="asked for")
        assert gone.n_sequences > 0
    again = generate_all(changed(settings, samples=3))
    assert again.prompts_forgotten == 1
    assert capture_all(config).n_documents > 0
    for table in ("traces", "documents", "sequences"):
        assert rows(config, f"SELECT doc_id FROM {table} WHERE starts_with(doc_id, '{prompt}')") == []


def test_after_a_trace_is_forgotten_a_run_has_nothing_to_do(generated: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GenerateRun, "_loaded", lambda run: pytest.fail("the writer was loaded"))
    doc_id = rows(generated, "SELECT doc_id FROM traces ORDER BY doc_id")[0]["doc_id"]
    with Lake.open(LakeLocation.resolve(generated.lake.path), read_only=False) as lake:
        forget(lake, [doc_id], reason="asked for")
    report = generate_all(generated)
    assert (report.n_units, report.samples_stored) == (0, 2 * N_PROMPTS)


def test_rewards_from_a_file_are_verdicts_and_the_others_wait(
    settings: dict[str, Any], generated: Config, tmp_path: Path
) -> None:
    doc_ids = sorted({row["doc_id"] for row in rows(changed(settings), "SELECT doc_id FROM traces")})
    path = tmp_path / "rewards.jsonl"
    verifier = {"name": "reward", "file": str(path), "min_score": 0.5}
    for n_scored in (3, 5):
        path.write_bytes(b"\n".join(orjson.dumps({"doc_id": d, "reward": 0.7}) for d in doc_ids[:n_scored]))
        report = generate_all(changed(settings, verifier=verifier))
    assert (report.n_traces, report.n_verdicts, report.n_waiting) == (0, 5, len(doc_ids) - 5)


def test_new_scores_in_the_same_file_are_the_ones_that_traces_show(
    settings: dict[str, Any], generated: Config, tmp_path: Path
) -> None:
    (doc_id, *_) = [row["doc_id"] for row in rows(changed(settings), "SELECT doc_id FROM traces")]
    path = tmp_path / "rewards.jsonl"
    for reward in (0.7, 0.2):
        path.write_bytes(orjson.dumps({"doc_id": doc_id, "reward": reward}))
        generate_all(changed(settings, verifier={"name": "reward", "file": str(path), "min_score": 0.5}))
        (shown,) = rows(changed(settings), f"SELECT score, is_kept FROM traces WHERE doc_id = '{doc_id}'")
        assert shown == {"score": reward, "is_kept": reward >= 0.5}


def test_a_corrected_reference_judges_its_traces_again(settings: dict[str, Any], generated: Config) -> None:
    verifier = {"name": "function", "call": "tests.unit.flows.generate.test_run:reference_is_corrected"}
    config = changed(settings, verifier=verifier)
    assert generate_all(config).n_kept == 0
    path = Path(settings["generate"]["prompts"]["path"])
    lines = [orjson.loads(line) for line in path.read_bytes().splitlines()]
    lines[3]["answer"] = "corrected"
    path.write_bytes(b"\n".join(map(orjson.dumps, lines)))
    report = generate_all(config)
    assert (report.n_traces, report.n_verdicts, report.n_kept) == (0, 2, 2)
    kept = rows(config, "SELECT prompt_id FROM traces WHERE is_kept")
    assert kept == [{"prompt_id": document_id(lines[3]["question"])}] * 2
    assert generate_all(config).n_units == 0


def reference_is_corrected(case: Any) -> float:
    return float(case.reference == "corrected")


def test_an_error_of_the_verifier_costs_nothing_that_was_written(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    verifier = {"name": "function", "call": "tests.unit.flows.generate.test_run:never"}
    with GenerateRun(changed(settings, verifier=verifier, max_prompts=2)) as run:
        number = next(run.units())
        for _ in range(2):
            with pytest.raises(ZeroDivisionError):
                run.compute(number)
            monkeypatch.setattr(GenerateRun, "_loaded", lambda run: pytest.fail("written again"))
        assert (run.report.n_traces, run.report.n_verdicts, run.report.n_units) == (4, 0, 0)
    config = changed(settings, max_prompts=2)
    assert rows(config, "SELECT score FROM traces") == [{"score": None}] * 4
    report = generate_all(config)
    assert (report.n_traces, report.n_units) == (0, 1) and report.n_verdicts > 0


def never(case: Any) -> float:
    return 1 / 0


def test_a_prompt_without_a_reference_is_refused_before_anything_is_written(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(GenerateRun, "_loaded", lambda run: pytest.fail("the writer was loaded"))
    prompts = {key: value for key, value in settings["generate"]["prompts"].items() if "field" not in key}
    config = changed(settings, prompts=prompts | {"text_field": "question"}, verifier={"name": "exact_answer"})
    with pytest.raises(SettingsError, match=r"exact_answer: expected a reference .*questions\.jsonl, record"):
        generate_all(config)


def test_chats_get_the_template_and_its_generation_prompt(settings: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "chats.jsonl"
    chat = [{"role": "user", "content": "the cat"}, {"role": "assistant", "content": "sat"}]
    path.write_bytes(orjson.dumps({"messages": chat}))
    template = tmp_path / "template.jinja"
    template.write_text(
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    settings["tokenization"] |= {"chat_template": str(template)}
    prompts = {"name": "chats", "kind": "jsonl", "path": str(path), "messages_field": "messages"}
    verifier = {"name": "function", "call": "tests.unit.flows.generate.test_run:reference_is_sat"}
    config = changed(settings, prompts=prompts, samples=1, verifier=verifier)
    with GenerateRun(config) as run:
        (number,) = run.units()
        (prompt,) = run._units[number].prompts.values()
        run.commit(run.compute(number))
    assert prompt.text == "<user>the cat\n<assistant>"
    assert prompt.prompt_id == document_id([chat[0]])
    assert rows(config, "SELECT score FROM traces") == [{"score": 1.0}]


def reference_is_sat(case: Any) -> float:
    return float(case.reference == "sat")


def test_traces_of_another_tokenizer_are_refused(generated: Config) -> None:
    config = generated
    with Lake.open(LakeLocation.resolve(config.lake.path), read_only=False) as lake, lake.transaction() as transaction:
        transaction.connection.execute("UPDATE store.traces SET tokenizer_id = 'other'")
    with pytest.raises(MismatchError, match="tokenizer"):
        capture_all(config)


def test_without_prompts_or_a_writer_the_message_says_what_to_set(settings: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match=r"generate\.prompts"):
        generate_all(changed(settings, prompts=None))
    with pytest.raises(SettingsError, match=r"generate\.writer nobody"):
        generate_all(changed(settings, writer="nobody"))
    with pytest.raises(SettingsError, match=r"teacher\.model"):
        generate_all(changed({**settings, "teacher": None}))


def test_an_error_leaves_what_was_committed_and_the_next_run_goes_on(settings: dict[str, Any]) -> None:
    config = changed(settings)
    with pytest.raises(RuntimeError), GenerateRun(config) as run:
        run.commit(run.compute(next(run.units())))
        raise RuntimeError
    assert generate_all(config).samples_stored == 10
    runs = rows(config, "SELECT kind, status FROM runs ORDER BY started_at")
    assert [(run["kind"], run["status"]) for run in runs] == [("generate", "failed"), ("generate", "finished")]


def test_the_record_of_a_trace_names_everything_that_decided_it(settings: dict[str, Any]) -> None:
    config = changed(settings, top_k=7, max_prompts=1)
    report = generate_all(config)
    record = json.loads(rows(config, "SELECT sampling FROM traces LIMIT 1")[0]["sampling"])
    assert record["top_k"] == 7 and record["stop_ids"] == [1] and record["writer"]["dtype"] == "float32"
    assert {row["sampling_id"] for row in rows(config, "SELECT sampling_id FROM traces")} == {report.sampling_id}


@pytest.mark.parametrize(
    ("engine", "options", "same"),
    [
        ("vllm", {"quantization": "fp8"}, False),
        ("vllm", {"tensor_parallel_size": 2}, True),
        ("transformers", {"quantization": "fp8"}, True),
    ],
)
def test_options_of_vllm_that_decide_its_numbers_are_part_of_the_sampling(
    settings: dict[str, Any], engine: str, options: dict[str, Any], same: bool
) -> None:
    config = changed(settings, engine=engine)
    other = changed(settings | {"teacher": settings["teacher"] | {"vllm": {"options": options}}}, engine=engine)
    ids = [prepare_writer(each).recipe.sampling_id for each in (config, other)]
    assert (ids[0] == ids[1]) is same


def test_a_completion_and_its_prompt_fit_into_the_positions_of_the_writer(
    settings: dict[str, Any], tiny_teacher: Path, tmp_path: Path
) -> None:
    directory = shutil.copytree(tiny_teacher, tmp_path / "short")
    content = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(content | {"max_position_embeddings": 16}))
    settings["teacher"] = settings["teacher"] | {"model": str(directory)}
    with pytest.raises(SettingsError, match=r"max_new_tokens 16: .* made for 16 positions"):
        prepare_writer(changed(settings, max_new_tokens=16))
    path = tmp_path / "lengths.jsonl"
    path.write_bytes(b"\n".join(orjson.dumps({"text": "the" + " cat" * n}) for n in range(40)))
    prompts = {"name": "lengths", "kind": "jsonl", "path": str(path), "max_reject_share": 1.0}
    config = changed(settings, max_new_tokens=6, prompts=prompts, samples=1)
    report = generate_all(config)
    lengths = [row["n"] for row in rows(config, "SELECT n_prompt_tokens AS n FROM traces")]
    assert max(lengths) == 10 and report.prompts_rejected == 40 - len(lengths)
    assert rows(config, "SELECT DISTINCT reason FROM rejects") == [{"reason": "too_long"}]
    assert prepare_writer(changed(settings, max_new_tokens=6, max_prompt_tokens=3)).max_prompt_tokens == 3
