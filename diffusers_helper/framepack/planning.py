"""Names that scripts import from here."""

from diffusers_helper.core.planning import plan_video, sections_for

__all__ = ["plan_video", "sections_for"]
