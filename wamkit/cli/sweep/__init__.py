"""`wamkit sweep`: many variants of one spec, each in a folder of its own."""
