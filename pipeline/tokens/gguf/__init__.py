"""The tokenizer that a GGUF file describes: its entries, how it cuts a text, and the tokenizer made of them."""
