"""A Llama and a tokenizer that are small enough to train in milliseconds. torch is imported when one is made."""

from pathlib import Path
from typing import Any

TINY_VOCAB = 211
TINY_CONFIG: dict[str, object] = {
    "vocab_size": TINY_VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "tie_word_embeddings": True,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": None,
}


def make_tiny_llama(seed: int = 0, **changes: object) -> Any:
    """A random Llama of TINY_CONFIG; keywords change the config."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.set_num_threads(1)
    torch.manual_seed(seed)
    return LlamaForCausalLM(LlamaConfig(**TINY_CONFIG | changes)).eval()


def write_tiny_teacher(directory: Path) -> None:
    """Write a random Llama and the tiny tokenizer, as save_pretrained does."""
    make_tiny_llama().save_pretrained(directory)
    write_tiny_tokenizer(directory)


def write_tiny_tokenizer(directory: Path) -> None:
    """Write a small byte-level BPE tokenizer."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    text = ["the cat sat on the mat and the dog sat on the log", "a small text for a small vocabulary"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|begin|>", "<|end|>"]
    tokenizer.train_from_iterator(text, trainers.BpeTrainer(vocab_size=TINY_VOCAB, special_tokens=special))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=special[0], eos_token=special[1]).save_pretrained(
        directory
    )


def write_served_teacher(directory: Path) -> None:
    """Write a teacher that vLLM runs on a CPU: heads of 32, and an output layer of the tokenizer's ids, none beyond."""
    from tokenizers import Tokenizer

    write_tiny_tokenizer(directory)
    vocabulary = Tokenizer.from_file(str(directory / "tokenizer.json")).get_vocab_size()
    shape = {"hidden_size": 64, "num_attention_heads": 2, "num_key_value_heads": 1, "initializer_range": 0.2}
    make_tiny_llama(vocab_size=vocabulary, **shape).save_pretrained(directory)
