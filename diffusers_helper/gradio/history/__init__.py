"""The tab "History": what was made, found again, and used again."""
