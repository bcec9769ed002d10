"""A policy: what it observes, how it acts and learns, how it is built and saved."""
