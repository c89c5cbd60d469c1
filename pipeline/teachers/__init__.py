"""Teachers: their files (`files`), the interface of engines (`engine`), and one engine a file.

Imports nothing, so that planning does not load torch.
"""
