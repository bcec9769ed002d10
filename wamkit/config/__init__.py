"""Configuration: classes of parts, specs, and the check of specs; no torch."""
