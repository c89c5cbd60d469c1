"""A teacher behind an OpenAI-compatible endpoint: transport, forms of answers, comparison of tokenizers."""
