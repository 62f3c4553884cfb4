"""A config file as text: YAML, with `${VAR}` from the environment, refused where YAML itself would guess."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import yaml

from schemas.masking import without_cards

# `${VAR}` in unquoted text is no YAML inside {...}: signs for private use stand in for it while YAML is read. One for each
# character, so that the columns in YAML's errors are right.
_IN_TEXT = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_OPEN, _CLOSE = "\ue000\ue001", "\ue002"
_HIDDEN = re.compile(f"{_OPEN}([A-Za-z0-9_]+){_CLOSE}")
_LONGEST_KEY = 64

Path = tuple[str | int, ...]


class Problem(NamedTuple):
    """One thing that is wrong with a config file: where, and what to do about it."""

    where: Path
    reason: str

    @property
    def path(self) -> str:
        """`where` as it is written: `pipelines.events.drop[0]`."""
        text = ""
        for part in self.where:
            plain = shown(str(part))
            text += f"[{plain}]" if isinstance(part, int) or part.startswith(".") else f".{plain}"
        return text.lstrip(".")

    def without_cards(self) -> "Problem":
        """The same without card numbers, which a config may hold by mistake."""
        where = tuple(without_cards(part) if isinstance(part, str) else part for part in self.where)
        return Problem(where, without_cards(self.reason))


class Unreadable(Exception):
    """A file that holds no YAML mapping. The text says where and what to do; it quotes nothing of a value."""


@dataclass(slots=True)
class Document:
    """What a file holds, with the environment's values in place. `problems` are variables that are not set."""

    data: dict[Any, Any]
    problems: list[Problem] = field(default_factory=list)
    unset: set[Path] = field(default_factory=set)
    """Values that could not be completed: what is wrong with them besides is not worth telling."""
    given: dict[str, str] = field(default_factory=dict)
    """Variables that were put in, and their values: any of them may be a secret."""

    def without_values(self, text: str) -> str:
        """`text` with the environment's values replaced by the names of their variables."""
        for name, value in sorted(self.given.items(), key=lambda one: -len(one[1])):
            if len(value) > 3:
                for written in (value, repr(value)[1:-1]):
                    text = text.replace(written, f"${{{name}}}")
        return text


def read(content: bytes, environment: Mapping[str, str]) -> Document:
    """Read a file's content. Raises Unreadable. A key that stands twice is an error: one of the two would silently not count."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise Unreadable("is not UTF-8 text; save it as UTF-8") from None
    text = _IN_TEXT.sub(lambda match: f"{_OPEN}{match[1]}{_CLOSE}", text)
    try:
        data = yaml.load(text, Loader=UniqueKeys)  # noqa: S506  # a SafeLoader
        if not isinstance(data, dict):
            raise Unreadable("holds no mapping; docs/configuration.md says what goes in")
        document = Document(data)
        document.data = _completed(data, (), document, environment)
    except yaml.YAMLError as error:
        raise Unreadable(f"is not YAML: {_one_line(error)}; correct the syntax") from None
    except RecursionError:
        raise Unreadable("is nested too deeply, or contains itself; write it out flat") from None
    return document


def shown(key: str) -> str:
    """A key as it may be shown. What has other characters than keys have may be a secret that lost its blank: `password:x`."""
    plain = re.match(r"[\w.-]*", key)[0][:_LONGEST_KEY]  # type: ignore[index]  # matches anything
    return plain if plain == key else f"{plain}…"


class UniqueKeys(yaml.SafeLoader):
    """Refuses a key that stands twice: one of the two would silently not count. What looks like a time stays the text it is, and
    what has no form in JSON is refused."""

    yaml_implicit_resolvers = {  # noqa: RUF012  # never changed; PyYAML's types do not let it be a ClassVar
        first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    yaml_constructors = {  # noqa: RUF012  # never changed, and no ClassVar in PyYAML's types
        tag: construct
        for tag, construct in yaml.SafeLoader.yaml_constructors.items()
        if str(tag).removeprefix("tag:yaml.org,2002:") not in {"binary", "omap", "pairs", "set", "timestamp"}
    }

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, ArithmeticError, AttributeError, TypeError):
            # Of Python's own parsers, which quote the value.
            problem = "a value is not what its tag (!!) says"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark) from None

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                problem = "a key is no text (put {{ }} and other templates in quotes)"
                raise yaml.constructor.ConstructorError(None, None, problem, key_node.start_mark)
            key = self.construct_object(key_node)
            if key in seen:
                problem = f"the key {shown(str(key))} stands twice"
                raise yaml.constructor.ConstructorError(None, None, problem, key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


def _one_line(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    place = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
    problem = getattr(error, "problem", None) or "it has characters that no text has"
    if isinstance(
        error, yaml.composer.ComposerError
    ):  # it would quote the name, which may be a value that begins with *
        problem = "an alias (*) that names no anchor (&); put a value that begins with * or & in quotes"
    if _OPEN[0] in problem or "could not determine a constructor" in problem:
        problem = "a tag (!) that is not known; put a value that begins with ! in quotes"
    return f"{problem}{place}"


def _completed(value: Any, where: Path, document: Document, environment: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        for key in value:
            if key is None or isinstance(key, bool):  # yes, no, on, off and their like
                reason = f"its name is read as {str(key).lower()} and not as text; put it in quotes, or choose another"
                document.problems.append(Problem((*where, str(key)), reason))
        return {str(key): _completed(one, (*where, str(key)), document, environment) for key, one in value.items()}
    if isinstance(value, list):
        return [_completed(one, (*where, index), document, environment) for index, one in enumerate(value)]
    if not isinstance(value, str):
        return value

    def variable(match: re.Match[str]) -> str:
        name = match[1]
        if name in environment:
            document.given[name] = environment[name]
            return environment[name]
        document.unset.add(where)
        reason = f"${{{name}}} is not set; set the environment variable {name}"
        if Problem(where, reason) not in document.problems:
            document.problems.append(Problem(where, reason))
        return f"unset-{name}"

    value = _HIDDEN.sub(variable, value)
    if not value.isascii() and (whole := value.encode(errors="replace").decode()) != value:
        document.unset.add(where)
        document.problems.append(Problem(where, "holds half of a character (a surrogate); write it in one piece"))
        return whole
    return value
