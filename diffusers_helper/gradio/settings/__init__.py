"""What belongs to this computer and this browser rather than to one video."""
