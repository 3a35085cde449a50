"""The timeline: words and a picture for each section of the video, over all of its length."""
