"""Files of the user's world: photos in, videos out."""
