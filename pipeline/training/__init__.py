"""The cached loss and the trainer."""
