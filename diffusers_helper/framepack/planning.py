"""Names that scripts import from here."""

from diffusers_helper.core.plan import sections_for
from diffusers_helper.core.planning import plan_video

__all__ = ["plan_video", "sections_for"]
