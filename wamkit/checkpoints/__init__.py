"""Weights in files: read, mapped, checked, pruned, written."""
