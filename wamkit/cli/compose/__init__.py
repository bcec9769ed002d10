"""`wamkit compose`: a whole spec from some of its parts."""
