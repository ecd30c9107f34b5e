"""The configuration: found, composed by Hydra, and refused before torch is imported."""
