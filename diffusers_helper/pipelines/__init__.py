"""One section's sampling, from noise to clean latents."""
