"""The method: sections of a video sampled and decoded one after the other, over a packed history."""
