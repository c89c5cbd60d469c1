"""Teachers: the interface of engines (`engine`), the probe of a loaded one, and one engine a file.

Imports nothing, so that planning does not load torch.
"""
