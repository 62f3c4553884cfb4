"""What docs/pipelines.md says is so: its examples are valid, and every stage and operator is there."""

import re
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from pipeline.conditions import Operator
from pipeline.config import PipelineConfig
from pipeline.keys import Key, Keys
from sluice.config import load
from sluice.golden import failures

PAGE = (Path(__file__).parents[2] / "docs" / "pipelines.md").read_text()
STAGES = dict(re.findall(r"^\| `(\w+)` \| .* \| `(.*)` \|$", PAGE, re.MULTILINE))
BLOCKS = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)]


def checked(**settings: Any) -> PipelineConfig:
    return PipelineConfig.model_validate({"from": "raw", "schema": "event", **settings})


@pytest.mark.parametrize("stage", sorted(STAGES.keys() - {"rename"}))
def test_the_example_of_each_stage_is_valid(stage: str) -> None:
    example = yaml.safe_load(STAGES[stage].replace("always: [...]", "always: [{field: .event, op: exists}]"))
    config = checked(**{stage: example})
    assert config != checked()


def test_every_stage_and_operator_is_named() -> None:
    given = {one.alias or name for name, one in PipelineConfig.model_fields.items()}
    assert given - {"from", "schema", "match"} == {*re.findall(r"^\| `(\w+)` \| ", PAGE, re.MULTILINE)} & given
    assert {op for op in get_args(Operator) if f"`{op}`" not in PAGE} == set()


def test_the_references_of_the_page(tmp_path: Path) -> None:
    references, _, _ = BLOCKS
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"kafka": {"brokers": ["localhost:9092"]}, **references}))
    endpoints, operators = load(tmp_path / "config.yaml").pipelines["usage"].enrich
    assert (endpoints.on_missing, operators.mode) == ("wait", "overwrite")


def test_the_routes_and_tests_of_the_page(tmp_path: Path) -> None:
    _, routes, tests = BLOCKS
    checked(**routes)
    pipelines = {"events": {"from": "raw", "schema": "event", "routes": routes["routes"]}}
    config = {"kafka": {"brokers": ["localhost:9092"]}, "pipelines": pipelines, **tests}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    assert list(failures(load(tmp_path / "config.yaml"), Keys([Key("k", "1", bytes(32))]))) == []
