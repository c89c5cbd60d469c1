"""One command a file: `python -m benchmarks.NAME [--quick]` measures one claim against its peers in the same run."""
