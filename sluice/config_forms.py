"""Conditions as they may be written in a config, made the one form that all else knows: a list of conditions among conditions is
`all`, and one condition that stands alone is a list of one.
"""

from collections.abc import Callable
from typing import Any

from sluice.config_problems import member
from sluice.yaml_file import Path

_MOST_LEVELS = 100
"""What is nested deeper stays as it is, to be refused."""


def written_out(data: dict[Any, Any]) -> dict[Any, Any]:
    """The data of a config, with its conditions in that form. What has no form of a condition stays as it is."""
    made: dict[Any, Any] = _with(
        data,
        pipelines=lambda pipelines: _each(pipelines, _pipeline),
        streams=lambda streams: _each(streams, lambda stream: _with(stream, where=_listed)),
    )
    return made


def as_written(where: Path, data: Any) -> Path:
    """A place in what `written_out` makes of the data, as a place in the data itself."""
    written: Path = ()
    for part in where:
        if (part == "all" and isinstance(data, list)) or (part == 0 and isinstance(data, dict)):
            continue
        written = (*written, part)
        data = member(data, part)
    return written


def _pipeline(pipeline: Any) -> Any:
    return _with(
        pipeline, routes=lambda routes: _each(routes, _listed), sample=lambda sample: _with(sample, always=_listed)
    )


def _listed(said: Any) -> Any:
    if isinstance(said, dict):
        said = [said]
    return [_condition(one, 0) for one in said] if isinstance(said, list) else said


def _condition(said: Any, level: int) -> Any:
    if level > _MOST_LEVELS:
        return said

    def below(one: Any) -> Any:
        return _condition(one, level + 1)

    def each_below(several: Any) -> Any:
        return [below(one) for one in several] if isinstance(several, list) else several

    if isinstance(said, list):
        return {"all": each_below(said)}
    return _with(said, any=each_below, all=each_below, **{"not": below})


def _each(held: Any, make: Callable[[Any], Any]) -> Any:
    return {key: make(one) for key, one in held.items()} if isinstance(held, dict) else held


def _with(held: Any, **makers: Callable[[Any], Any]) -> Any:
    """A mapping with these of its values made anew, where it has them."""
    if not isinstance(held, dict):
        return held
    return {key: makers[key](one) if key in makers else one for key, one in held.items()}
