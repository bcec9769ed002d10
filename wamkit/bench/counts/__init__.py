"""Counts of passes and of encoding as polynomials of sizes, for who computes with them."""
