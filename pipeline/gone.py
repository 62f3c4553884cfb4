"""Which fields are not there any more, or not as they came, when the later stages of a pipeline look at records."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from pipeline.paths import InvalidPath, Names, Problem, is_within, parse, parts, resolve, touches

if TYPE_CHECKING:
    from pipeline.config import PipelineConfig


class Gone:
    """What `drop`, `keep` and `redact` take. `problems` is what is wrong with the paths of the first two."""

    def __init__(self, config: "PipelineConfig", record: type[msgspec.Struct]) -> None:
        self.problems: list[Problem] = []
        self._dropped = self._named(config.drop, "drop", record)
        self._kept = self._named(config.keep, "keep", record)
        self._redacted = {rule.field: parts(rule.field) for rule in config.redact}

    def _named(self, paths: Sequence[str], stage: str, record: type[msgspec.Struct]) -> dict[str, Names]:
        named = {}
        for number, path in enumerate(paths):
            try:
                named[resolve(path, record).path] = parse(path)
            except InvalidPath as error:
                self.problems.append(Problem((stage, number), str(error)))
        return named

    def why(self, path: str, *, redacted: bool = True) -> str:
        """Why a field is not there as it came, and what to do; "" if it is."""
        names = parts(path)
        for dropped, outer in self._dropped.items():
            if is_within(names, outer):
                return f"{dropped} is dropped before; remove it from drop, or this"
        if self._kept and not any(touches(names, kept) for kept in self._kept.values()):
            return f"{path} is not among what is kept; add it to keep, or remove this"
        for field, outer in self._redacted.items():
            if redacted and touches(names, outer):
                return f"{field} is redacted before; remove it from redact, or this"
        return ""
