"""`wamkit explore`: a page on which one tries what fits with what, and what it costs."""
