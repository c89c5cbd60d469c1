"""A teacher of random weights with the shape of a real one: for measuring speed, where no model hub is reached.

`python -m benchmarks.random_teacher DIRECTORY [--billions 1]` writes a Llama in bfloat16 with the tokenizer of the
demo's teacher. Its targets are wide, since it knows nothing: entries and bytes per token say nothing about a real one.
"""

import argparse
from pathlib import Path

import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from logitlake.flows.demo.teacher import demo_teacher
from logitlake.pipeline.model_files.files import resolve_teacher
from logitlake.pipeline.settings.models import TeacherSettings

# Layers, hidden size, inner size, heads and key-value heads, by billions of parameters.
_SHAPES = {1: (16, 2048, 8192, 32, 8), 3: (28, 3072, 8192, 24, 8), 8: (32, 4096, 14336, 32, 8)}


def write_random_teacher(directory: Path, billions: int) -> None:
    """Write config, weights and tokenizer. The vocabulary is the tokenizer's."""
    files = resolve_teacher(TeacherSettings(model=str(demo_teacher())))
    tokenizer = AutoTokenizer.from_pretrained(files.directory)
    layers, hidden, inner, heads, kv_heads = _SHAPES[billions]
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=8192,
        tie_word_embeddings=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        dtype=torch.bfloat16,
    )
    torch.manual_seed(0)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        torch.set_default_dtype(torch.bfloat16)
        LlamaForCausalLM(config).save_pretrained(directory)
    tokenizer.save_pretrained(directory)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", type=Path)
    parser.add_argument("--billions", type=int, choices=sorted(_SHAPES), default=1)
    given = parser.parse_args()
    write_random_teacher(given.directory, given.billions)


if __name__ == "__main__":
    main()
