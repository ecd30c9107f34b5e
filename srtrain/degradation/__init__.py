"""From HR to LR."""
