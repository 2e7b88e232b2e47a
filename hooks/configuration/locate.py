"""On which line of a TOML file each key stands.

tomli says where a file is not TOML; it does not say where a value came from. This walks the text
of a file that tomli has already accepted, and only follows its structure: tables, keys, arrays
and inline tables. It may therefore assume valid input, and looks at no value.
"""

from collections.abc import Iterator

from hooks.configuration.definition import Path


def key_lines(text: str) -> dict[Path, int]:
    """Map the path of each table, key and array element in valid TOML to its line, from 1."""
    return _Walk(text).document()


def line_of(lines: dict[Path, int], path: Path) -> int | None:
    """The line of `path`, or of the nearest thing around it that stands in the file."""
    for length in range(len(path), 0, -1):
        if (line := lines.get(path[:length])) is not None:
            return line
    return None


class _Walk:
    def __init__(self, text: str) -> None:
        self._text = text.replace("\r\n", "\n") + "\n"
        self._at = 0
        self._counted_to = 0
        self._line = 1
        self._lines: dict[Path, int] = {}
        self._tables_in_array: dict[Path, int] = {}

    def document(self) -> dict[Path, int]:
        table: Path = ()
        while self._skip_blank():
            if self._peek("["):
                table = self._header()
            else:
                self._pair(table)
        return self._lines

    def _header(self) -> Path:
        line = self._line_here()
        is_array = self._peek("[[")
        self._at += 2 if is_array else 1
        path: Path = ()
        parts = list(self._dotted_key())
        for position, part in enumerate(parts):
            path = (*path, part)
            last = position == len(parts) - 1
            if is_array and last:
                self._tables_in_array[path] = self._tables_in_array.get(path, -1) + 1
                self._lines.setdefault(path, line)
            if path in self._tables_in_array:
                path = (*path, self._tables_in_array[path])
        self._at += 2 if is_array else 1
        self._lines.setdefault(path, line)
        return path

    def _pair(self, table: Path) -> None:
        line = self._line_here()
        path = table
        for part in self._dotted_key():
            path = (*path, part)
            self._lines.setdefault(path, line)
        self._at += 1  # the equals sign
        self._value(path)

    def _dotted_key(self) -> Iterator[str]:
        while True:
            self._skip_spaces()
            if self._peek('"') or self._peek("'"):
                start = self._at + 1
                self._string()
                yield self._text[start : self._at - 1]
            else:
                start = self._at
                while self._text[self._at].isalnum() or self._text[self._at] in "-_":
                    self._at += 1
                yield self._text[start : self._at]
            self._skip_spaces()
            if not self._peek("."):
                return
            self._at += 1

    def _value(self, path: Path) -> None:
        self._skip_spaces()
        if self._peek('"') or self._peek("'"):
            self._string()
        elif self._peek("["):
            self._at += 1
            index = 0
            while self._skip_blank() and not self._peek("]"):
                self._lines[(*path, index)] = self._line_here()
                self._value((*path, index))
                index += 1
                self._skip_comma()
            self._at += 1
        elif self._peek("{"):
            self._at += 1
            while self._skip_blank() and not self._peek("}"):
                self._pair(path)
                self._skip_comma()
            self._at += 1
        else:
            while self._text[self._at] not in ",]}#\n":
                self._at += 1

    def _string(self) -> None:
        quote = self._text[self._at]
        if self._peek(quote * 3):
            self._at += 3
            while not self._peek(quote * 3):
                self._at += 2 if quote == '"' and self._peek("\\") else 1
            self._at += 3
            while self._peek(quote):  # up to two quotes may stand just before the closing three
                self._at += 1
            return
        self._at += 1
        while not self._peek(quote):
            self._at += 2 if quote == '"' and self._peek("\\") else 1
        self._at += 1

    def _skip_comma(self) -> None:
        self._skip_blank()
        if self._peek(","):
            self._at += 1

    def _skip_spaces(self) -> None:
        while self._text[self._at] in " \t":
            self._at += 1

    def _skip_blank(self) -> bool:
        """Go past spaces, line ends and comments; False at the end of the text."""
        while self._at < len(self._text):
            if self._text[self._at] in " \t\n\r":
                self._at += 1
            elif self._peek("#"):
                self._at = self._text.index("\n", self._at)
            else:
                return True
        return False

    def _peek(self, text: str) -> bool:
        return self._text.startswith(text, self._at)

    def _line_here(self) -> int:
        self._line += self._text.count("\n", self._counted_to, self._at)
        self._counted_to = self._at
        return self._line
