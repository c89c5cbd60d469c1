"""`logitlake demo`: everything on a real teacher and real text."""
