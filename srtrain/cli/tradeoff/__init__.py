"""``srtrain tradeoff``: what distortion pays for perception, from one start by one command."""
