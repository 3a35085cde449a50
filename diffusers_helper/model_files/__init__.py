"""Find, check and fetch the files of a model, without torch: what is wrong with them is said before anything heavy.

`parts` is the list of what a model consists of, `check` looks at the files of one part, `hub` fetches, and a
`ModelSource` (the public checkpoints, or a folder in the same layout) puts these together.
"""

from diffusers_helper.model_files.choice import resolve_models
from diffusers_helper.model_files.hub_source import HubSource
from diffusers_helper.model_files.local_folder import LocalFolder
from diffusers_helper.model_files.parts import Part, parts_for, transformer_part
from diffusers_helper.model_files.sizes import free_bytes, readable_progress, readable_size
from diffusers_helper.model_files.source import ModelSource

__all__ = [
    "HubSource",
    "LocalFolder",
    "ModelSource",
    "Part",
    "free_bytes",
    "parts_for",
    "readable_progress",
    "readable_size",
    "resolve_models",
    "transformer_part",
]
