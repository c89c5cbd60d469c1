"""Which rows a student sees: chosen, named, registered, read again, exported."""
