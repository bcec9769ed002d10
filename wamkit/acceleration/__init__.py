"""What makes the same numbers faster: memos, compiled layers, fused and 8-bit ones."""
