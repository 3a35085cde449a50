"""The ground: what every other folder may import. No torch."""
