"""What `published_sizes.py` is made of: systems, ways to run them, goals, and profiles."""
