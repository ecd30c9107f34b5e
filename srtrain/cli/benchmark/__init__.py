"""``srtrain benchmark``: what srtrain costs, measured beside what it could cost."""
