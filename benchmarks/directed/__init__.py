"""What `benchmarks.directing` measures, a module for each kind of direction."""
