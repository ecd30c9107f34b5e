"""What a generator is measured by: pure functions, one value per image."""
