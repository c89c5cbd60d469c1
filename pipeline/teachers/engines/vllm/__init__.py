"""Teachers that vLLM runs, in a process and, if need be, a Python environment of its own."""
