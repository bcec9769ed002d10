"""Evaluate a policy on all tasks of a benchmark suite, episode by episode, in several processes."""
