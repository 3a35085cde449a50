"""FramePack: a photo and a prompt become a long video, one section at a time."""
