"""``python -m diffusers_helper COMMAND``: everything without the page."""
