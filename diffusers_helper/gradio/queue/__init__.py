"""The region "Queue" of the page: the strip of jobs that wait, many videos at once, export and import."""
