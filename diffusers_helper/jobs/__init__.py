"""One worker, its queue, what it keeps on the disk, and what everybody may see of it."""
