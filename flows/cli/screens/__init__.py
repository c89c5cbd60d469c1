"""The screens of `logitlake show`, one file per kind: facts of the lake in, sections out."""
