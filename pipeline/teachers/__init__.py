"""Teachers: where their files are (`files`), what an engine must do (`engine`), and one engine a file.

Nothing is imported here, so that planning, which needs the files only, does not load torch.
"""
