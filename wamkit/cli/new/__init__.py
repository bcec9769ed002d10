"""`wamkit new`: the first files of a plugin of one's own, from templates."""
