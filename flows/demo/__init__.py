"""`logitlake demo`: the main job on a real teacher and real text."""
