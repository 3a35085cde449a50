"""The form: what a video is made from, and how."""
