"""What can be read from the files alone, without a catalog: for a rebuild and for a repair."""
