"""Distances that imitate people's judgement: metrics measure by them, losses train on them."""
