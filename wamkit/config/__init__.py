"""What can be written down: parts' configuration classes, specs, their check; no torch."""
