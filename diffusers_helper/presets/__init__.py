"""Settings under a name: those that come along, and a folder of files of each user's own. No torch."""
