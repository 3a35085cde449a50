"""The region "Presets": settings under names, at the top of the form and for scripts."""
