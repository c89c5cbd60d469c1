"""What `logitlake show` shows of one thing, each kind a file: facts of the lake in, sections of a screen out."""
