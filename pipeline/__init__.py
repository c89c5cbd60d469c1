"""What one step means: documents to sequences, sequences to targets, targets to students."""
