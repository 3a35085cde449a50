"""The programs' options as keywords."""

from __future__ import annotations

from typing import Any

from diffusers_helper.service.config import RuntimeConfig, names_of


def config_from(**given: Any) -> RuntimeConfig:
    """Return the settings of a process in which `given` was chosen; raises TypeError and SettingsError."""
    names = names_of("machine")
    for name in [name for name in given if name not in names]:
        positive = name.removeprefix("no_")  # no_compile=True is --no-compile
        if positive not in names or RuntimeConfig.model_fields[positive].annotation is not bool:
            raise TypeError(f"load() has no option {name!r}; there are {', '.join(sorted(names))}.")
        given[positive] = not given.pop(name)
    return RuntimeConfig.load(**given)
