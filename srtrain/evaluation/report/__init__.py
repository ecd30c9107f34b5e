"""One self-contained page of what was measured: tables, figures, and pictures to compare."""
