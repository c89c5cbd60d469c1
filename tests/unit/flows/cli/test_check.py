"""`logitlake check` passes for a sound teacher, and finds each kind of difference."""

import json
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from logitlake.pipeline.settings.registry import ENGINES
from tests.tiny_lake import text_of
from tests.tiny_models import make_tiny_llama
from tests.unit.pipeline.conftest import SPECIAL, TEMPLATE, train_backend

CHECKS = [
    *("ids", "labels", "probabilities", "batches", "later tokens"),
    *("target heads", "target sums", "target mean", "statistics"),
]
# Marks the user's words for training, and not the assistant's.
WRONG_LABELS = TEMPLATE.replace(
    "{{ message.content }}",
    "{% if message.role == 'user' %}{% generation %}{{ message.content }}{% endgeneration %}{% else %}"
    "{{ message.content }}{% endif %}",
)
ENGINES_FILE = '''
from logitlake.pipeline.teachers.engine import EngineKind
from logitlake.pipeline.teachers.engines.transformers_engine import load_teacher


class Changed:
    """A sound engine whose logits are multiplied by a factor of (ids of the batch)."""

    def __init__(self, engine, factor, one_by_one=False):
        self.engine, self.factor, self.one_by_one = engine, factor, one_by_one

    def __getattr__(self, name):
        return getattr(self.engine, name)

    def forward(self, input_ids, has_target):
        batches = [([i], [m]) for i, m in zip(input_ids, has_target)] if self.one_by_one else [(input_ids, has_target)]
        for ids, masks in batches:
            for logits in self.engine.forward(ids, masks):
                yield logits * self.factor(ids)


def hot(settings, files, *, vocab_size):
    return Changed(load_teacher(settings, files, vocab_size=vocab_size), lambda ids: 1.01)


def crowded(settings, files, *, vocab_size):
    """The probe's batches have three sequences at most."""
    return Changed(load_teacher(settings, files, vocab_size=vocab_size), lambda ids: 1 + 0.01 * (len(ids) > 3))


def curious(settings, files, *, vocab_size):
    """Sees the last token of texts that the probe has not: those of an odd length."""
    factor = lambda ids: 1 + 0.01 * (int(ids[0][-1]) % 7) * (len(ids[0]) % 2)
    return Changed(load_teacher(settings, files, vocab_size=vocab_size), factor, one_by_one=True)


def peeking(settings, files, *, vocab_size):
    """The probe sees it."""
    factor = lambda ids: 1 + 0.1 * (int(ids[0][-1]) % 7)
    return Changed(load_teacher(settings, files, vocab_size=vocab_size), factor, one_by_one=True)


def numb(settings, files, *, vocab_size):
    """Gives NaN for texts that the probe has not: those of an odd length."""
    factor = lambda ids: float("nan") if len(ids[0]) % 2 else 1.0
    return Changed(load_teacher(settings, files, vocab_size=vocab_size), factor, one_by_one=True)


HOT, CROWDED, CURIOUS, PEEKING, NUMB = (
    EngineKind(gives="distribution", load=f"strange_engines:{name}")
    for name in ("hot", "crowded", "curious", "peeking", "numb")
)
'''

Write = Callable[..., Path]


def chat(number: int) -> list[dict[str, str]]:
    return [
        {"role": "user", "content": f"what does {number} jump over"},
        {"role": "assistant", "content": f"the quick brown fox {number} jumps over the lazy dog"},
        {"role": "user", "content": "pack my box"},
        {"role": "assistant", "content": "with five dozen jugs"},
    ]


@pytest.fixture(scope="session")
def chat_teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sharp random Llama with a tokenizer that has a chat template."""
    directory = tmp_path_factory.mktemp("chat-teacher")
    make_tiny_llama(vocab_size=340, initializer_range=0.4).save_pretrained(directory)
    train_backend().save(str(directory / "tokenizer.json"))
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    config = special | {"tokenizer_class": "PreTrainedTokenizerFast", "extra_special_tokens": SPECIAL[3:]}
    (directory / "tokenizer_config.json").write_text(json.dumps(config))
    (directory / "chat_template.jinja").write_text(TEMPLATE)
    return directory


@pytest.fixture
def write(tmp_path: Path, chat_teacher: Path) -> Write:
    """Write settings with a corpus of each shape; sections may be changed."""

    def settings(**sections: Any) -> Path:
        shapes: dict[str, list[Any]] = {
            "chats": [{"messages": chat(number)} for number in range(9)],
            "pairs": [{"prompt": text_of(number), "completion": f" and {number} more"} for number in range(9)],
            "texts": [{"text": text_of(number)} for number in range(9)],
        }
        fields: dict[str, dict[str, str]] = {
            "chats": {"messages_field": "messages"},
            "pairs": {"prompt_field": "prompt", "completion_field": "completion"},
            "texts": {},
        }
        corpora = []
        for name, rows in shapes.items():
            (tmp_path / f"{name}.jsonl").write_bytes(b"\n".join(orjson.dumps(row) for row in rows))
            path = str(tmp_path / f"{name}.jsonl")
            corpora.append({"name": name, "kind": "jsonl", "path": path, **fields[name]})
        raw = {
            "lake": {"path": str(tmp_path / "lake")},
            "teacher": {"model": str(chat_teacher), "device": "cpu", "dtype": "float32"},
            "corpora": corpora,
            "tokenization": {"window": 32, "overlap": 8},
            "capture": {"batch_tokens": 256},
        }
        for name, section in sections.items():
            raw[name] = section if isinstance(section, list) else {**raw.get(name, {}), **section}  # type: ignore[dict-item]
        file = tmp_path / "logitlake.yaml"
        file.write_bytes(orjson.dumps(raw))
        return file

    return settings


@pytest.fixture
def strange_engines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A distribution of engines that pass the probe and are wrong all the same."""
    directory = tmp_path / "site-packages"
    metadata = directory / "strange-1.0.dist-info"
    metadata.mkdir(parents=True)
    (directory / "strange_engines.py").write_text(ENGINES_FILE)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: strange\nVersion: 1.0\n")
    lines = [f"{name} = strange_engines:{name.upper()}" for name in ("hot", "crowded", "curious", "peeking", "numb")]
    (metadata / "entry_points.txt").write_text("\n".join(["[logitlake.engines]", *lines]))
    monkeypatch.syspath_prepend(directory)
    ENGINES.__dict__.pop("_providers", None)
    yield
    ENGINES.__dict__.pop("_providers", None)
    sys.modules.pop("strange_engines", None)


def results(result: Any) -> dict[str, dict[str, Any]]:
    return {row["check"]: row for row in json.loads(result.stdout)["checks"]}


def differing(result: Any) -> set[str]:
    return {name for name, row in results(result).items() if row["result"] != "pass"}


def test_a_sound_teacher_passes_on_texts_pairs_and_chats_without_a_lake(cli: Any, write: Write, tmp_path: Path) -> None:
    config_file = write()
    before = {path.name for path in tmp_path.iterdir()}
    result = cli("check", "--config", config_file, "--format", "json")
    assert result.exit_code == 0, result.stderr
    report = json.loads(result.stdout)
    assert [row["check"] for row in report["checks"]] == CHECKS
    assert {row["result"] for row in report["checks"]} == {"pass"}
    assert report["documents"] == 12 and report["tokens_per_second"] > 0
    assert (report["checks"][0]["compared"], report["checks"][0]["unit"]) == (12, "documents")
    labelled = {row["document"]: row["labelled"] for row in report["labelled"]}
    assert labelled["chats/chats.jsonl:1"] == [
        "the quick brown fox 0 jumps over the lazy dog<|end|>",
        "with five dozen jugs<|end|>",
    ]
    assert labelled["pairs/pairs.jsonl:3"] == [" and 2 more</s>"]
    assert {path.name for path in tmp_path.iterdir()} == before, "a check writes nothing"


def test_a_template_that_labels_what_the_user_wrote_is_found(cli: Any, write: Write, tmp_path: Path) -> None:
    (tmp_path / "wrong.jinja").write_text(WRONG_LABELS)
    template = {"chat_template": str(tmp_path / "wrong.jinja")}
    result = cli("check", "--config", write(tokenization=template), "--format", "json")
    assert (result.exit_code, differing(result)) == (4, {"labels"})
    detail = results(result)["labels"]["detail"]
    assert detail.startswith("chats/chats.jsonl:1: token") and "the assistant did not write it" in detail
    assert detail in result.stderr


@pytest.mark.usefixtures("strange_engines")
@pytest.mark.parametrize(
    ("engine", "found"),
    [("hot", {"probabilities"}), ("crowded", {"batches"}), ("curious", {"probabilities", "later tokens"})],
)
def test_an_engine_that_passes_the_probe_and_differs_is_found(
    cli: Any, write: Write, engine: str, found: set[str]
) -> None:
    result = cli("check", "--config", write(teacher={"engine": engine}), "--format", "json")
    assert (result.exit_code, differing(result)) == (4, found), result.stderr
    for name in found:
        row = results(result)[name]
        assert row["difference"] > row["bound"]
        assert row["detail"].startswith(("chats/", "pairs/", "texts/"))


@pytest.mark.slow
@pytest.mark.usefixtures("strange_engines")
def test_an_engine_that_gives_no_numbers_is_found_with_the_document(cli: Any, write: Write) -> None:
    result = cli("check", "--config", write(teacher={"engine": "numb"}), "--format", "json")
    assert (result.exit_code, differing(result)) == (4, {"probabilities", "batches", "later tokens", "targets"})
    assert results(result)["targets"]["detail"].startswith(("chats/", "pairs/", "texts/"))
    assert results(result)["probabilities"]["difference"] is None, "JSON has no infinity"


@pytest.mark.usefixtures("strange_engines")
def test_a_teacher_that_the_probe_refuses_is_a_row_beside_the_checks_of_tokens(cli: Any, write: Write) -> None:
    result = cli("check", "--config", write(teacher={"engine": "peeking"}), "--format", "json")
    assert result.exit_code == 4
    assert [(name, row["result"]) for name, row in results(result).items()] == [
        *(("ids", "pass"), ("labels", "pass")),
        ("engine", "differs"),
    ]
    assert "expected a causal language model" in result.stderr


@pytest.mark.slow
def test_an_adapter_is_compared_with_the_same_adapter_of_peft(
    cli: Any, write: Write, tmp_path: Path, chat_teacher: Path
) -> None:
    lora = LoraConfig(target_modules=["q_proj", "o_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adapted = get_peft_model(AutoModelForCausalLM.from_pretrained(chat_teacher), lora)
        adapted.save_pretrained(tmp_path / "adapter")
    teacher = {"adapter": str(tmp_path / "adapter")}
    result = cli("check", "--config", write(teacher=teacher), "--documents", "1", "--format", "json")
    assert (result.exit_code, differing(result)) == (0, set()), result.stderr


def test_the_table_shows_each_check_and_labels_of_chats(cli: Any, write: Write) -> None:
    result = cli("check", "--config", write(), "--documents", "1")
    assert result.exit_code == 0, result.stderr
    for name in CHECKS:
        assert any(line.strip().startswith(name) and " pass " in line for line in result.stdout.splitlines()), name
    assert "with five dozen jugs<|end|>" in result.stdout
    assert "logitlake plan --tokens-per-second" in result.stderr


def test_a_corpus_without_a_usable_document_ends_with_3(cli: Any, write: Write, tmp_path: Path) -> None:
    (tmp_path / "none.jsonl").write_text('{"words": 1}\n')
    corpora = [{"name": "none", "kind": "jsonl", "path": str(tmp_path / "none.jsonl"), "max_reject_share": 1}]
    result = cli("check", "--config", write(corpora=corpora))
    assert (result.exit_code, "expected a document" in result.stderr) == (3, True)


@pytest.mark.slow  # a process of its own that imports torch
def test_a_check_imports_no_prefect(write: Write) -> None:
    script = """
import sys
sys.argv = ["logitlake", "check", "--documents", "1", "--config", sys.argv[1]]
from logitlake.flows.cli.app import main
try:
    main()
except SystemExit as done:
    print("prefect" in sys.modules, done.code or 0)
"""
    call = [sys.executable, "-c", script, str(write())]
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1] == "False 0", done.stderr
