"""A LoRA file as changes of one model's weights, or one sentence on why it does not fit: no weight is needed for it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from diffusers_helper.core.errors import LoraError
from diffusers_helper.core.files import display_name, parsed_json
from diffusers_helper.core.messages import Message
from diffusers_helper.lora.files import LoraFile, unusable
from diffusers_helper.lora.formulas import KINDS, OF_BIAS, Change, decomposed
from diffusers_helper.lora.names import (
    LEFT_OUT,
    ModuleNames,
    Target,
    families,
    module_of_unknown,
    split,
    without_prefixes,
)
from diffusers_helper.model_files.peft_settings import IN_HEADER

_TYPED = {"up": "lora_up", "down": "lora_down"}
_UNREADABLE = re.compile(r"(?!\\\.)[\\*+?()\[\]{}|$]")
"""In a key of peft's tables: what a regular expression has and a name has not. One from a file could run for ever."""
_NAMED = 6
"""How many families of modules are named."""


@dataclass(frozen=True, eq=False)
class Adapter:
    """What a file changes of one model.

    Attributes:
        name, sha256: of the file.
        changes: by the weights' and biases' names in the model.
        modules: how many modules the file has.
        matched: how many of these are the model's.
        left_out: families of the others.
    """

    name: str
    sha256: str
    changes: Mapping[str, tuple[Change, ...]]
    modules: int
    matched: int
    left_out: tuple[str, ...]

    @property
    def note(self) -> Message:
        """What a user should know."""
        if not self.left_out:
            return Message("LoRA {name}: all {modules} modules are used.", name=self.name, modules=self.modules)
        return Message(
            "LoRA {name}: {matched} of {modules} modules are used; left out: {families}.",
            name=self.name,
            matched=self.matched,
            modules=self.modules,
            families=_listed(self.left_out),
        )


def adapter_of(file: LoraFile, names: ModuleNames) -> Adapter:
    """Return what a file changes of the model whose names these are; raises LoraError where it does not fit."""
    modules, others = split(file.tensors)
    maker = _Maker(file, names)
    matched = [module for module in modules if maker.find(module)]
    left_out = families([module for module in modules if module not in matched])
    if not any(names.find(module) for module in modules):
        raise unusable(
            file.name,
            Message(
                "is made for another model: none of its {count} modules is one of this one, such as {families}",
                count=len(modules),
                families=_listed(left_out),
            ),
        )
    for other in others:
        if names.find(module_of_unknown(other)):
            raise unusable(file.name, Message("holds {tensor}, of a kind that is not read", tensor=display_name(other)))
    for module in modules:
        if module not in matched and names.find(module):
            maker.require_fit(module, modules[module])
    changes: dict[str, list[Change]] = {}
    for module in matched:
        for parameter, change in maker.changes(module, modules[module]):
            changes.setdefault(parameter, []).append(change)
    return Adapter(
        file.name,
        file.sha256,
        {parameter: tuple(found) for parameter, found in changes.items()},
        len(modules),
        len(matched),
        left_out,
    )


class _Maker:
    """Makes changes of the tensors of one file."""

    def __init__(self, file: LoraFile, names: ModuleNames) -> None:
        self._file = file
        self._names = names
        self._settings = _adapter_settings(file.metadata)

    def find(self, module: str) -> tuple[Target, ...]:
        """The targets of a module that is used."""
        return tuple(target for target in self._names.find(module) if not LEFT_OUT.fullmatch(target.module))

    def changes(self, module: str, roles: Mapping[str, str]) -> Iterator[tuple[str, Change]]:
        """Each parameter that the module's tensors change, and how."""
        targets = self.find(module)
        for kind, change in self._whole(module, roles):
            leaf = "bias" if kind == OF_BIAS else "weight"
            self._require_shape(module, change, leaf, targets)
            for target in targets:
                yield f"{target.module}.{leaf}", change.part(target)

    def require_fit(self, module: str, roles: Mapping[str, str]) -> None:
        """Raise LoraError where a module that is left out would not fit: then the rest expects another model, too."""
        for kind, change in self._whole(module, roles):
            self._require_shape(module, change, "bias" if kind == OF_BIAS else "weight", self._names.find(module))

    def _whole(self, module: str, roles: Mapping[str, str]) -> Iterator[tuple[str, Change]]:
        """Each kind of change that the tensors of a module make together."""
        parts = {role: self._file.tensors[name] for role, name in roles.items()}
        alpha, rank_stabilised = self._scaling(module, parts)
        magnitude = parts.pop("dora_scale", None)
        parts.pop("alpha", None)
        unused = set(parts)
        for kind, (make, groups) in KINDS.items():
            present = [next((role for role in group if role in parts), "") for group in groups]
            if not any(present):
                continue
            if not all(present):
                missing = next(group for group, found in zip(groups, present, strict=True) if not found)
                raise self._unusable(
                    Message(
                        "has a part of {module} alone: {part} is missing",
                        part=_TYPED.get(missing[0], missing[0]),
                        module=display_name(module),
                    )
                )
            unused.difference_update(present)
            try:
                change = make(parts, alpha, rank_stabilised)
                if magnitude is not None and kind != OF_BIAS:
                    change = decomposed(change, magnitude, rows_only=len(self._names.find(module)) > 1)
            except (ValueError, RuntimeError):
                shapes = ", ".join("x".join(map(str, parts[role].shape)) for role in present)
                raise self._unusable(
                    Message(
                        "has tensors of {module} that do not fit: {shapes}", module=display_name(module), shapes=shapes
                    )
                ) from None
            yield kind, change
        if unused or not parts:
            part = min(unused or roles)
            raise self._unusable(Message("has only {part} of {module}", part=part, module=display_name(module)))

    def _scaling(self, module: str, parts: Mapping[str, Tensor]) -> tuple[float | None, bool]:
        """The alpha of a module, and whether the square root of the rank divides it."""
        alpha: float | None = None
        if "alpha" in parts:
            if parts["alpha"].numel() != 1:
                raise self._unusable(Message("has an alpha of {module} that is no number", module=display_name(module)))
            alpha = float(parts["alpha"])
        elif self._settings:
            alpha = self._setting("alpha_pattern", module, "lora_alpha", "alpha")
            self._require_rank(module, parts)
        return alpha, self._settings.get("use_rslora") is True

    def _setting(self, pattern: str, module: str, *names: str) -> float | None:
        """A number of peft's settings for a module: of a table by modules' names, else the one for all."""
        table = self._settings.get(pattern)
        for key, value in table.items() if isinstance(table, dict) else ():
            if _UNREADABLE.search(str(key)):
                raise self._unusable(
                    Message(
                        "has settings for modules by a pattern that is not read: {pattern}", pattern=display_name(key)
                    )
                )
            if _means(str(key), module):
                return _number(value)
        return next((value for name in names if (value := _number(self._settings.get(name))) is not None), None)

    def _require_rank(self, module: str, parts: Mapping[str, Tensor]) -> None:
        rank = self._setting("rank_pattern", module, "r")
        if "down" in parts and rank not in (None, parts["down"].shape[0]):
            raise self._unusable(
                Message(
                    "has settings that are not its own: they say rank {said} for {module}, and it has {found}",
                    said=f"{rank:g}",
                    module=display_name(module),
                    found=parts["down"].shape[0],
                )
            )

    def _require_shape(self, module: str, change: Change, leaf: str, targets: Sequence[Target]) -> None:
        inner = self._names.shapes[targets[0].module][1:]
        rows = targets[-1].rows[1]
        wanted = (rows,) if leaf == "bias" else (rows, *inner)
        if leaf == "bias" and any(target.module not in self._names.biases for target in targets):
            raise self._unusable(Message("changes the bias of {module}, which has none", module=display_name(module)))
        if change.shape == wanted:
            return
        if len(wanted) > 2 and change.shape[1] != wanted[1]:
            text = Message(
                "is made for a model whose input has {found} channels ({module}); this one has {wanted}",
                found=change.shape[1],
                wanted=wanted[1],
                module=display_name(module),
            )
        else:
            text = Message(
                "has another shape for {module} than this model: {found} instead of {wanted}",
                module=display_name(module),
                found="x".join(map(str, change.shape)),
                wanted="x".join(map(str, wanted)),
            )
        raise self._unusable(text)

    def _unusable(self, problem: Message) -> LoraError:
        return unusable(self._file.name, problem)


def _adapter_settings(metadata: Mapping[str, str]) -> Mapping[str, Any]:
    """peft's settings, as diffusers keeps them in the header: those of the transformer."""
    try:
        found = parsed_json(metadata.get(IN_HEADER, "{}"))
    except ValueError:
        return {}
    if not isinstance(found, dict):
        return {}
    prefix = "transformer."
    inner = {key.removeprefix(prefix): value for key, value in found.items() if key.startswith(prefix)}
    return inner or found


def _means(key: str, module: str) -> bool:
    """Whether a key of peft's tables, a name or the end of one, means a module; after "^" it is a whole name."""
    name = key.replace("\\.", ".")
    if name.startswith("^"):
        return name[1:] in without_prefixes(module)
    return module == name or module.endswith(f".{name}")


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(display_name(name) for name in names[:_NAMED])
    return shown if len(names) <= _NAMED else f"{shown}, … ({len(names)})"
