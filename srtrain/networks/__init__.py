"""Networks: generators, and the files they are kept in."""
