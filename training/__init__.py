"""Makes the small model folder in assets/tiny; the product never imports this."""
