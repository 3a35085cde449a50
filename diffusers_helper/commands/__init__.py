"""`./framepack COMMAND`: everything without the page."""
