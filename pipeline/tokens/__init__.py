"""From documents to token ids, and back to text."""
