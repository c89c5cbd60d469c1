"""A user's directory with own folders called storage, pipeline and flows, a lake, and a training script."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa

from logitlake.storage.connection.location import LakeLocation
from logitlake.storage.lake.lake import Lake
from logitlake.storage.writing.commits import commit_unit
from logitlake.storage.writing.recipes import register_recipe

RowMaker = Callable[..., pa.Table]

RECIPE = {
    "teacher": {"name": "llama-1M", "weights": "w" * 32, "adapter": None},
    "tokenizer": "t" * 32,
    "vocabulary": 211,
    "temperature": 1.0,
    "sparsifier": {"name": "varopt", "threshold": 0.05},
}

TRAIN = '''
"""Trains a small student from the lake beside this script, with settings from the user's own packages."""

import torch
from transformers import LlamaConfig, LlamaForCausalLM

import logitlake
from flows import LEARNING_RATE
from pipeline.api import EPOCHS
from storage.lake import LAKE

torch.manual_seed(0)
torch.set_num_threads(1)
config = LlamaConfig(vocab_size=211, hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2)
model = LlamaForCausalLM(config)
optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE)
rows = logitlake.open_rows(LAKE, batch_sequences=4)
parts = logitlake.take_apart(model)
settings = logitlake.LossSettings(temperature=rows.recipe["temperature"])
means: list[float] = []
for _ in range(EPOCHS):
    losses: list[float] = []
    for batch in rows.reader:
        loss = logitlake.model_loss(parts, batch, settings)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    means.append(sum(losses) / len(losses))
print(logitlake.__file__, means[0], means[-1])
'''

# For a type checker: what it is to find out, and three mistakes that it is to find.
TYPED = """
import logitlake

rows = logitlake.open_rows("lake", batch_sequences=4)
reveal_type(rows.reader)
logitlake.open_row
rows.row_sett
logitlake.open_rows(batch_sequences="4")
"""

# Their own types cost a minute.
MYPY = """
[mypy]
strict = True
[mypy-torch.*,transformers.*,pyarrow.*,numpy.*,duckdb.*,pydantic.*]
ignore_missing_imports = True
follow_imports = skip
follow_imports_for_stubs = True
"""

OWN_FILES = {
    "flows/__init__.py": "LEARNING_RATE = 0.01\n",
    "pipeline/__init__.py": "",
    "pipeline/api.py": "EPOCHS = 4\n",
    "storage/__init__.py": "",
    "storage/lake.py": 'LAKE = "lake"\n',
    "train.py": TRAIN,
    "typed.py": TYPED,
    "mypy.ini": MYPY,
}


def write_users_directory(directory: Path, make_rows: RowMaker) -> Path:
    """Write the user's files and a lake of one unit below `directory`, and return it."""
    for name, content in OWN_FILES.items():
        (directory / name).parent.mkdir(exist_ok=True)
        (directory / name).write_text(content, encoding="utf-8")
    with Lake.create(LakeLocation.resolve(directory / "lake"), held_out_salt="s", held_out_share=0.0) as lake:
        recipe_id = register_recipe(lake, RECIPE)
        rows = make_rows([8, 12, 20, 9, 15, 30, 7, 11], recipe_id=recipe_id)
        commit_unit(lake, rows, recipe=RECIPE, run_id="run", seconds=1.0)
    return directory


TYPED_ANSWERS = ["logitlake.pipeline.reading.reader.RowSetReader", "attr-defined", "attr-defined", "arg-type"]


def mypy_answers(python: Path, directory: Path) -> list[str]:
    """What mypy says of typed.py with the packages of an interpreter: the revealed type, and the codes of errors."""
    command = [
        sys.executable,
        "-m",
        "mypy",
        "typed.py",
        "--cache-dir",
        "mypy_cache",
        "--python-executable",
        str(python),
    ]
    environment = {name: value for name, value in os.environ.items() if name != "MYPYPATH"}
    done = subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    return [
        kind or code
        for kind, code in re.findall(r'Revealed type is "(.*)"|\[([a-z-]+)\]$', done.stdout, flags=re.MULTILINE)
    ]
