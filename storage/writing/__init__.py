"""What a capture writes: commits, recipes, runs, sources."""
