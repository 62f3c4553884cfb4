"""Source lines into a function: straight-line Python for what is done to every record."""

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import UNSET


def compiled(name: str, lines: Sequence[str], constants: Mapping[str, Any]) -> Any:
    """The function `name` that these source lines define, over these constants and UNSET.

    Nothing gets into the lines but what whoever made them chose: names of fields that are identifiers, and literals by `repr`.
    """
    source = "\n".join(lines)
    namespace: dict[str, Any] = {"UNSET": UNSET, **constants}
    exec(compile(source, f"<sluice: {name}>", "exec"), namespace)  # noqa: S102  # of names and quoted literals alone, as said above
    return namespace[name]
