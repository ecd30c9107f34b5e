"""Faults that a run survives, or is refused with one line: rows of RELIABILITY.md."""
