"""Files of any kind, read within bounds and written atomically; no torch."""
