"""The command line: one table of commands, one file a command, one screen a subject."""
