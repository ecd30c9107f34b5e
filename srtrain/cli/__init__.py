"""The command line: parse, instantiate, call."""
