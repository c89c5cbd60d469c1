"""The command line: one table of commands, one file per command, one file per screen of `show`."""
