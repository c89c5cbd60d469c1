"""What lies in a directory that could be a corpus: the files, their fields, and about how much they hold."""
