"""Networks that score images: real, or made by the generator."""
