"""A lake copied to another place: its files, then its catalog in one transaction."""
