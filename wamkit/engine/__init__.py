"""Shared attention, the KV cache, noise schedules, samplers, and layers that plugins share."""
