"""What is done to a whole batch of pairs before the generator sees it; off by default."""
