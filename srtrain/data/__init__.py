"""Where images come from, and how the k-th sample of a run is cut from them."""
