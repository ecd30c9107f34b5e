"""A trained network as files that other programs open."""
