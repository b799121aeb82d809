"""Files -> rows with their line numbers. Anything that violates the format is an error with file and line."""

import codecs
import csv
import itertools
import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from utils import InputError, counted, log

SHOWN = 60  # characters of a file's text shown in a message
LISTED = 10  # lines listed in a message
ROWS_AT_ONCE = 1000  # rows of a Parquet or Arrow file read at once
# Characters in a cell of a .csv file. Python's own limit, 131,072, is too small for a long document. A limit is needed
# because everything after an unclosed quote is one cell.
LONGEST_CELL = 5_000_000


def lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (line number, line) of a UTF-8 file, without a byte-order mark (MRPC has one).

    Raises:
        InputError: the file cannot be read, or it is not text.
    """
    try:
        with open(path, encoding="utf-8-sig", newline="\n") as file:
            line = 0
            for line, text in enumerate(file, 1):
                if "\0" in text:
                    raise InputError(f"{path}, line {line}: the line has a NUL byte; is this a text file?")
                if line == 1 and "\r" in text.rstrip("\r\n"):
                    raise InputError(f"{path}, line 1: lines end in carriage returns alone, as on old Macs: convert it")
                yield line, text.rstrip("\r\n")
    except UnicodeDecodeError as error:
        line, reason = _bad_line(path) or (line + 1, error.reason)
        raise InputError(f"{path}, line {line}: not valid UTF-8 ({reason}); save the file as UTF-8") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None


def _without_blank_end(numbered: Iterator[tuple[int, str]]) -> Iterator[tuple[int, str]]:
    """All lines except blank ones at the end, which editors and exports leave there, also with tabs in them."""
    blank = []
    for line, text in numbered:
        blank.append((line, text))
        if text.strip():
            yield from blank
            blank.clear()


def _bad_line(path: Path) -> tuple[int, str] | None:
    """Line and reason of the first bad byte: the decoder of an open file reads ahead."""
    content = path.read_bytes()
    try:
        content.decode("utf-8")
    except UnicodeDecodeError as error:
        utf16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        return content.count(b"\n", 0, error.start) + 1, "it looks like UTF-16" if utf16 else error.reason
    return None


def tab_separated_rows(path: Path, header: tuple[str, ...] | None, broken_allowed: int) -> Iterator[tuple[int, dict]]:
    """Yield (line number, column -> value); quotes are literal.

    Args:
        header: the columns of a file without a header line.
        broken_allowed: how many rows with too few columns may be left out; they are reported.

    Raises:
        InputError: a row and the header differ in their number of columns.
    """
    file_lines = _without_blank_end(lines(path))
    columns = header or tuple(next(file_lines, (0, ""))[1].split("\t"))
    _check_header(path, columns)
    broken: list[int] = []
    for line, text in file_lines:
        values = text.split("\t")
        if len(values) < len(columns) and len(broken) < broken_allowed:
            broken.append(line)
        else:
            yield line, _named(columns, values, f"{path}, line {line}")
    if broken:
        log.warning(lines_left_out(path, broken, "with too few columns"))


def csv_rows(path: Path) -> Iterator[tuple[int, dict]]:
    """Yield (line number, column -> value) of a csv file with a header line; values may be in double quotes.

    Raises:
        InputError: the quotes do not match, a cell is longer than `LONGEST_CELL`, or a row and the header differ in
            their number of columns.
    """
    csv.field_size_limit(LONGEST_CELL)
    reader = csv.reader((text + "\n" for _, text in _without_blank_end(lines(path))), strict=True)
    columns = None
    while True:
        begins = reader.line_num + 1
        try:
            values = next(reader, None)
        except csv.Error as error:
            row = f"; its row begins in line {begins}: is a quote not closed?" if begins < reader.line_num else ""
            raise InputError(f"{path}, line {reader.line_num}: not valid CSV ({error}{row})") from None
        if values is None:
            return
        if columns is None:
            columns = tuple(values)
            _check_header(path, columns)
        else:
            yield reader.line_num, _named(columns, values, f"{path}, line {reader.line_num}")


def _check_header(path: Path, columns: tuple[str, ...]) -> None:
    if not columns:
        raise InputError(f"{path}, line 1: the header is empty: it must name the columns")
    column, times = Counter(columns).most_common(1)[0]
    if times > 1:
        raise InputError(f"{path}, line 1: the header names the column {quoted(column)} twice")
    for mark, name in ((";", "semicolons"), ("\t", "tabs")):
        if path.suffix.lower() == ".csv" and len(columns) == 1 and mark in column:
            raise InputError(
                f"{path}, line 1: columns are separated by {name}: save it with commas, or as .tsv with tabs"
            )


def _named(columns: tuple[str, ...], values: list[str], where: str) -> dict[str, str]:
    if len(values) != len(columns):
        raise InputError(f"{where}: {counted(len(values), 'column')} where {len(columns)} are expected")
    return dict(zip(columns, values, strict=True))


def json_rows(path: Path) -> Iterator[tuple[int, dict]]:
    """Yield (line number, object) of a file with one JSON object per line.

    Raises:
        InputError: a line is not a JSON object.
    """
    for line, text in _without_blank_end(lines(path)):
        row = _json(text, path, line)
        if not isinstance(row, dict):
            raise InputError(f"{path}, line {line}: a JSON object is expected, not {type(row).__name__}")
        yield line, row


def json_document(path: Path):
    """The content of a JSON file.

    Raises:
        InputError: the file is not JSON.
    """
    return _json("\n".join(text for _, text in lines(path)), path)


def _json(text: str, path: Path, line: int | None = None):
    where = f"{path}, line {line}" if line else str(path)
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        if line == 1 and text.strip() == "{":
            raise InputError(f"{path}, line 1: an object over several lines; one per line is expected") from None
        raise InputError(
            f"{path}, line {line or error.lineno}: not valid JSON ({error.msg}, column {error.colno})"
        ) from None
    except RecursionError:
        raise InputError(f"{where}: JSON nested too deeply to be read") from None
    except ValueError:
        raise InputError(f"{where}: JSON with a number too long to be read") from None


def json_table_rows(path: Path) -> Iterator[tuple[int, dict]]:
    """Yield (row number, object) of a list of JSON objects; if there is one object per line, like `json_rows`.

    Raises:
        InputError: the file has any other content.
    """
    first = next((text.lstrip() for _, text in lines(path) if text.strip()), "")
    if not first.startswith("["):
        yield from json_rows(path)
        return
    for number, row in enumerate(json_document(path), 1):
        if not isinstance(row, dict):
            raise InputError(f"{path}, row {number}: a JSON object is expected, not {type(row).__name__}")
        yield number, row


def arrow_parts(path: Path) -> Iterator:
    """Yield the rows of a Parquet file as one or more `datasets.Dataset`s, of which only one is in memory.

    An Arrow file, as stored by the `datasets` library, is a single memory-mapped part.

    Raises:
        InputError: the file has neither format, or is damaged.
    """
    import datasets  # takes seconds
    import pyarrow

    whole = path.suffix.lower() == ".arrow"
    try:
        for part in (datasets.Dataset.from_file(str(path)),) if whole else _parquet_parts(path):
            # Images and audio, which would be decoded.
            unread = [name for name, kind in part.features.items() if hasattr(kind, "decode_example")]
            yield part.remove_columns(unread) if unread else part
    except InputError:
        raise
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        said = next(iter(str(error).splitlines()), "")
        raise InputError(f"{path}: not a readable {path.suffix.lower().removeprefix('.')} file ({said})") from None


def _parquet_parts(path: Path) -> Iterator:
    import datasets
    import pyarrow
    from pyarrow import parquet

    with parquet.ParquetFile(path) as file:
        schema = file.schema_arrow
        if twice := [name for name, times in Counter(schema.names).items() if times > 1]:
            raise InputError(f"{path}: it has the column {quoted(twice[0])} twice: rename or remove one")
        for batch in itertools.chain(file.iter_batches(ROWS_AT_ONCE), [None] * (file.metadata.num_rows == 0)):
            table = pyarrow.Table.from_batches([batch], schema) if batch is not None else schema.empty_table()
            yield datasets.Dataset(datasets.table.InMemoryTable(table), fingerprint="")  # computing one takes time


def arrow_features(path: Path):
    """The columns of a Parquet or Arrow file, as `datasets.Features`.

    Raises:
        InputError: the file cannot be read.
    """
    return next(arrow_parts(path)).features


def class_names(feature) -> list[str] | None:
    """The class names of a `datasets` feature, or of the elements of a list feature; None if it has none."""
    return getattr(getattr(feature, "feature", feature), "names", None)


def arrow_rows(path: Path) -> Iterator[tuple[int, dict]]:
    """Yield (row number, column -> value) of a Parquet or Arrow file; numbered classes are replaced by their names.

    Raises:
        InputError: the file cannot be read.
    """
    names = {name: known for name, feature in arrow_features(path).items() if (known := class_names(feature))}

    def named(column: str, value):
        if isinstance(value, list):
            return [named(column, each) for each in value]
        if isinstance(value, int) and value >= 0:
            if value >= len(names[column]):
                known = counted(len(names[column]), "class", "classes")
                raise InputError(f"{path}, row {number}: {quoted(column)} has the class {value}, of {known} from 0")
            return names[column][value]
        return None if str(value) in names[column] else value  # -1 means no class, even if a class is called -1

    number = 0
    batches = (batch for part in arrow_parts(path) for batch in part.iter(ROWS_AT_ONCE))
    for batch in batches:
        for values in zip(*batch.values(), strict=True):
            number += 1
            row = dict(zip(batch, values, strict=True))
            yield number, row | {column: named(column, row[column]) for column in names}


# Suffix -> function of a path that yields the rows of a table with named columns, for any task.
TABLES = {
    ".csv": csv_rows,
    ".json": json_table_rows,
    ".jsonl": json_rows,
    ".parquet": arrow_rows,
    ".arrow": arrow_rows,
}
WITHOUT_LINES = (".json", ".parquet", ".arrow")


def place_of(path: Path, number: int) -> str:
    """File and line, or row, for a message."""
    return f"{path}, {_unit(path)} {number}"


def _unit(path: Path) -> str:
    return "row" if path.suffix.lower() in WITHOUT_LINES else "line"


def lines_left_out(path: Path, numbers: Sequence[int], what: str) -> str:
    """The log message on rows that are left out: how many, and where the first ones are."""
    many = len(numbers) > 1
    where = f"{_unit(path)}{'s' * many} {', '.join(map(str, numbers[:LISTED]))}{', ...' * (len(numbers) > LISTED)}"
    return f"{path}: {counted(len(numbers), 'row')} {what} {'are' if many else 'is'} left out ({where})"


def rows_of(path: Path) -> Iterator[tuple[int, dict]]:
    """The numbered rows of a table, read by its suffix; with an unknown suffix, as tab-separated."""
    read = TABLES.get(path.suffix.lower())
    return read(path) if read else tab_separated_rows(path, None, 0)


def row_ids(folder: Path, names: tuple[str, ...]) -> tuple[tuple[str, ...], ...]:
    """The ids in a list with one per line: in the folder, under one of these names, or else next to this module.

    Raises:
        InputError: the list cannot be read, or is empty.
    """
    path = next((folder / name for name in names if (folder / name).is_file()), Path(__file__).parent / names[0])
    ids = tuple(dict.fromkeys(tuple(text.split()) for _, text in lines(path) if text.split()))
    if not ids:
        raise InputError(f"{path}: the list of row ids is empty")
    return ids


def word_lines(path: Path, document_mark: str | None = None) -> Iterator[tuple[int, list[str]]]:
    """Yield (line number, columns) of a file with one word per line; no columns for a line that ends a sentence.

    Columns are separated by tabs or, if a line has none, by spaces: between tabs, a word may contain a space. A
    sentence ends at an empty line, or where the first column is the `document_mark`.
    """
    for line, text in lines(path):
        tabs, text = "\t" in text, text.rstrip(" \t")
        columns = text.split("\t") if tabs else re.split(" +", text.strip(" "))
        ends = not text or columns[0] == document_mark
        yield line, [] if ends else [column.strip(" ") for column in columns]


def has_blank_lines(path: Path) -> bool:
    """Whether there is text before and after a blank line."""
    begun = blank = False
    for _, text in lines(path):
        if text.strip() and blank:
            return True
        begun = begun or bool(text.strip())
        blank = begun and not text.strip()
    return False


def text_column(row: dict, names: tuple[str, ...], where: str) -> str:
    """The text in the first of these columns that the row has.

    Raises:
        InputError: the row has none of them, or the value is not text.
    """
    name = column_name(row, names, where)
    return checked_text(row[name], f"column {name!r}", where)


def column_name(row: dict, names: tuple[str, ...], where: str) -> str:
    """The first of these columns that the row has.

    Raises:
        InputError: the row has none of them.
    """
    for name in names:
        if name in row:
            return name
    raise InputError(f"{where}: there is no column {' or '.join(map(repr, names))}")


def quoted(text: str) -> str:
    """Text of a file, for a message: in quotes, on one line, and shortened if it is long."""
    return repr(text if len(text) <= SHOWN else f"{text[:SHOWN]}...")


def checked_text(value, name: str, where: str) -> str:
    """`value` as text, if it is a number or encodable text (JSON can contain lone surrogates).

    Raises:
        InputError: it is neither; the message begins with `where` and calls the value `name`.
    """
    if type(value) is int or (type(value) is float and math.isfinite(value)):  # not True: its type is bool
        return str(value)
    if not isinstance(value, str):
        kind = {type(None): "null", list: "a list", float: f"{value} (a missing value?)"}.get(
            type(value), type(value).__name__
        )
        raise InputError(f"{where}: {name} must be text, not {kind}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise InputError(f"{where}: {name} holds half a character (a lone surrogate)") from None
    return value
