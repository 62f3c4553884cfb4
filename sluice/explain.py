"""`sluice try --explain`: what each stage of a pipeline did to each record, in colour and masked.

A stage is explained by its deeds: the record is taken through the pipeline as far as before the stage, and as far as behind it.
"""

from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO, NamedTuple

import msgspec
from rich.console import Console
from rich.text import Text

from pipeline.config import PipelineConfig
from pipeline.paths import Names, text
from pipeline.pipeline import Pipeline
from schemas.masking import Mask, visible, without_numbers
from sluice.config import Config
from sluice.trial import Line, lines, pipeline_of, prepared
from sluice.wiring import make_mask

STAGES = ("enrich", "drop", "keep", "set_", "rename", "redact", "sample", "deduplicate", "routes", "encrypt", "gate")
_NONE: dict[str, Any] = {
    name: field.get_default(call_default_factory=True) for name, field in PipelineConfig.model_fields.items()
} | {"gate": "off"}
_MISSING = object()


class _Way(NamedTuple):
    """How far a record came."""

    route: str | None
    value: Any
    shown: Any
    """The same, masked."""
    left: str
    """Why it goes no further, "" if it does."""
    drift: str


def run(config: Config, name: str, source: BinaryIO, references: Sequence[str]) -> None:
    """Explain each line of `source` on stdout. `references` are NAME=FILE. Blocks as `source` does.

    Values that the schema marks as sensitive, or that may be card numbers, are not shown. Raises UserError for what is not there.
    """
    settings = pipeline_of(config, name)
    make = prepared(config, name, references)
    console = Console(highlight=False, soft_wrap=True)
    used = [stage for stage in STAGES if getattr(settings, stage) != _NONE[stage]]
    ways = [make(_until(settings, used[:count])) for count in range(len(used) + 1)]
    mask = make_mask(settings)
    for line in lines(source, config.kafka.max_message_bytes):
        console.print(Text(f"record {line.offset + 1}", "bold"))
        before = _way(ways[0], line, mask)
        if before.left:
            before = _way(ways[-1], line, mask)  # of a field to encrypt the whole pipeline has a reason of its own
        _say(console, "decode", [(" ", before.drift)] if before.drift else [], before.left)
        for stage, made in zip(used, ways[1:], strict=True):
            if before.left:
                break
            after = _way(made, line, mask)
            # Every encryption gives other ciphertexts: behind it only the route and the end can be compared.
            changes = [] if stage == "gate" else list(_changes(before, after, routed=stage == "routes"))
            _say(console, stage.rstrip("_"), changes, after.left)
            before = after
        if not before.left:
            console.print(Text(f"  → {name}.{before.route}", "bold green"))


def _until(config: PipelineConfig, stages: list[str]) -> PipelineConfig:
    """The pipeline with these stages and no others."""
    return config.model_copy(update={stage: _NONE[stage] for stage in STAGES if stage not in stages})


def _way(made: Pipeline, line: Line, mask: Mask) -> _Way:
    if line.too_large:
        return _Way(None, None, None, "dead letter: too-large", "")
    done = made.process([line])
    drift = ", ".join(f"{kind} {count}" for kind, count in sorted(done.drift.items()))
    if done.dead:
        return _Way(None, None, None, f"dead letter: {done.dead[0][1]}", drift)
    if not done.values:
        return _Way(None, None, None, "left out", drift)
    value = done.values[0]
    shown = mask(value)
    route = " and ".join(done.routes)
    return _Way(route, msgspec.json.decode(value), msgspec.json.decode(shown), "", drift)


def _changes(before: _Way, after: _Way, *, routed: bool) -> Iterator[tuple[str, str]]:
    if after.left:
        return
    if routed:
        yield " ", f"takes the route {after.route}"
    yield from _differences(before.value, after.value, before.shown, after.shown, ())


def _differences(before: Any, after: Any, was: Any, now: Any, names: Names) -> Iterator[tuple[str, str]]:
    """A sign and a text for each field that was added, removed or changed; `was` and `now` are what may be shown of it."""
    if isinstance(before, dict) and isinstance(after, dict):
        for name in [*after, *(gone for gone in before if gone not in after)]:
            yield from _differences(
                before.get(name, _MISSING),
                after.get(name, _MISSING),
                _below(was, name),
                _below(now, name),
                (*names, name),
            )
    elif before is _MISSING:
        yield "+", f"{_path(names)}  {_shown(now)}"
    elif after is _MISSING:
        yield "-", f"{_path(names)}  {_shown(was)}"
    elif before != after:
        yield "~", f"{_path(names)}  {_shown(was)} → {_shown(now)}"


def _path(names: Names) -> str:
    """A path; keys of open fields may be anything."""
    return visible(without_numbers(text(names)))


def _below(shown: Any, name: str) -> Any:
    return shown.get(name) if isinstance(shown, dict) else shown


def _shown(value: Any) -> str:
    return visible(value if isinstance(value, str) else msgspec.json.encode(value).decode())


def _say(console: Console, stage: str, changes: list[tuple[str, str]], left: str) -> None:
    colours = {"+": "green", "-": "red", "~": "yellow", " ": ""}
    said = changes or [(" ", "" if left else "nothing to do")]
    for number, (sign, what) in enumerate(said):
        if sign != " " or what:
            console.print(
                Text.assemble((f"  {stage if not number else '':<12}", "cyan"), (f"{sign} {what}", colours[sign]))
            )
    if left:
        console.print(Text.assemble((f"  {'' if changes else stage:<12}", "cyan"), (f"✗ {left}", "bold red")))
