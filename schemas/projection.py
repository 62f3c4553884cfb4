"""One record as a CSV row, in the columns of its subject.

CSV as RFC 4180 has it, UTF-8, with a line feed between rows: every value in double quotes, a missing one an empty cell
without quotes. Text is written as it is: a cell that begins with `=`, `+`, `-` or `@` is a formula to a spreadsheet, so
import such files as text.
"""

from collections.abc import Callable
from operator import attrgetter, itemgetter
from typing import Any

import msgspec
from msgspec import Raw

from schemas.subjects import Column, Subject

_LINE_END = b"\n"
_ABSENT = Raw(b"")
_NULL = Raw(b"null")
_text: Callable[[bytes], str] = msgspec.json.Decoder(str).decode


def csv_header(subject: Subject) -> bytes:
    """The names of all columns as one line, with its line end. Raises ValueError for a subject without columns."""
    return b",".join(_quoted(column.name) for column in _columns(subject)) + _LINE_END


class CsvRow:
    """Turns JSON records of a subject into CSV lines. Keys that have no column are left out.

    Numbers are as they were written, decimals padded to the scale of their field; booleans are true and false; objects and
    arrays are JSON in one cell.
    """

    def __init__(self, subject: Subject) -> None:
        columns = _columns(subject)
        # Records are numbered from the outermost in; each knows the number of the record that it lies in.
        parents: dict[tuple[str, ...], tuple[str, ...]] = {}
        leaves: dict[tuple[str, ...], list[str]] = {(): []}
        for column in columns:
            *path, last = column.path[1:].split(".")
            for depth in range(len(path)):
                parents[tuple(path[: depth + 1])] = tuple(path[:depth])
                leaves.setdefault(tuple(path[: depth + 1]), [])
            leaves[tuple(path)].append(last)
        numbers = {path: number for number, path in enumerate(leaves)}
        self._records = [(numbers[parents[path]], path[-1]) for path in leaves if path]
        self._leaves = [(_getter(names), (_ABSENT,) * len(names)) for names in leaves.values()]
        self._decode = msgspec.json.Decoder(_row_type((), leaves, parents)).decode
        found = [(*path, name) for path, names in leaves.items() for name in names]
        self._order = itemgetter(*(found.index(tuple(column.path[1:].split("."))) for column in columns))
        fields = {field.text_path: field for top in subject.fields for field in top.walk()}
        of_column = [fields[column.path] for column in columns]
        self._plain = [n for n, field in enumerate(of_column) if field.kind in ("long", "double", "boolean")]
        self._open = [n for n, field in enumerate(of_column) if field.kind in ("json", "object", "array")]
        # A decimal of 15 digits or less survives being a double: `%.6f` gives back the digits that were written.
        self._decimals = [
            (n, f'"%.{field.scale}f"'.encode()) for n, field in enumerate(of_column) if field.kind == "decimal"
        ]

    def __call__(self, value: bytes) -> bytes:
        """One record, a JSON object as the codec writes it, as one line with its line end. Raises msgspec.DecodeError."""
        records = [self._decode(value)]
        for parent, name in self._records:
            above = records[parent]
            records.append(None if above is None else getattr(above, name))
        values: list[Raw] = []
        for record, (leaves, blanks) in zip(records, self._leaves, strict=True):
            values += blanks if record is None else leaves(record)
        cells: list[Any] = list(self._order(values))
        if b"null" in value:
            cells = [_ABSENT if cell == _NULL else cell for cell in cells]
        for place, form in self._decimals:
            cell = cells[place]
            if cell is not _ABSENT:
                cells[place] = form % float(cell)
        if b"\\" in value:
            return b",".join(map(_cell, map(bytes, cells))) + _LINE_END
        # JSON text without escapes holds no quote, so it is a cell as it stands.
        for place in self._plain:
            cell = cells[place]
            if cell is not _ABSENT:
                cells[place] = b'"%b"' % cell
        for place in self._open:
            cell = cells[place]
            if cell is not _ABSENT:
                cells[place] = _cell(bytes(cell))
        return b",".join(cells) + _LINE_END


def _columns(subject: Subject) -> tuple[Column, ...]:
    if not subject.columns:
        raise ValueError(
            f"subject {subject.name} has no CSV columns: deliver it as json, or add schemas/{subject.name}/columns.json"
        )
    return subject.columns


def _row_type(
    path: tuple[str, ...], leaves: dict[tuple[str, ...], list[str]], parents: dict[tuple[str, ...], tuple[str, ...]]
) -> type[msgspec.Struct]:
    """A Struct of the raw JSON of each leaf, empty if absent; a record that is absent is None."""
    members: list[tuple[str, Any, Any]] = [(name, Raw, _ABSENT) for name in leaves[path]]
    below = [child for child, parent in parents.items() if parent == path]
    members += [(child[-1], _row_type(child, leaves, parents) | None, None) for child in below]
    return msgspec.defstruct("Row", members, gc=False)


def _getter(names: list[str]) -> Callable[[Any], tuple[Raw, ...]]:
    if len(names) > 1:
        return attrgetter(*names)
    return lambda record: tuple(getattr(record, name) for name in names)


def _cell(json: bytes) -> bytes:
    first = json[:1]
    if first == b'"':
        return json if b"\\" not in json else _quoted(_text(json))
    if first in (b"{", b"["):
        return b'"%b"' % json.replace(b'"', b'""')
    return b'"%b"' % json if json else b""


def _quoted(text: str) -> bytes:
    return b'"%b"' % text.replace('"', '""').encode()
