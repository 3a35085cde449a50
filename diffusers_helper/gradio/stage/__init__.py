"""What is being made and what was made: progress, preview, video, and what can be done with it."""
