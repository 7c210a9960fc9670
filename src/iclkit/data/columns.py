"""Which columns of a table are meant: by names, by numbers, or as those of another table."""

from __future__ import annotations

from collections.abc import Sequence

from iclkit.errors import UserError, short, shown, unknown

# No table has more columns than this has digits.
_DIGITS = 9


class Columns:
    """The columns of one file.

    Args:
        label: What messages call the file.
        names: Their names.
        named: Whether the file itself named them.
    """

    def __init__(self, label: str, names: tuple[str, ...], named: bool) -> None:
        self.label, self.names, self.named = label, names, named
        self._places: dict[str, list[int]] = {}
        for place, name in enumerate(names):
            self._places.setdefault(name, []).append(place)

    def __contains__(self, name: object) -> bool:
        return name in self._places

    @property
    def distinct(self) -> bool:
        """Whether every name is that of one column alone."""
        return len(self._places) == len(self.names)

    def choose(
        self, columns: Sequence[str | int] | None, dim: int | None = None, target: str | int | None = None
    ) -> list[int]:
        """Places of the columns asked for, counted from 0.

        Args:
            columns: Names, or numbers from 1; all by default.
            dim: How many there must be.
            target: A column that goes last.

        Raises:
            UserError: No such columns, one of them twice, or another number of them.
        """
        if isinstance(columns, str):
            columns = [columns]
        last = None if target is None else self.place(target)
        chosen = list(range(len(self.names))) if columns is None else [self.place(c) for c in columns]
        if last is not None:
            if columns is None:
                del chosen[last]
            elif last in chosen:
                raise UserError(
                    f"the target {short(self.names[last])!r} is among the columns chosen; leave it out"
                )
            chosen.append(last)
        if not chosen:
            raise UserError(f"no column of {self.label} is chosen; it has {listed(self.names)}")
        if len(set(chosen)) < len(chosen):
            raise UserError(f"a column was chosen twice: {listed(columns or ())}")
        if dim is not None and len(chosen) != dim:
            self._refuse(len(chosen), dim, columns)
        return chosen

    def place(self, column: str | int) -> int:
        """The place of one column, counted from 0.

        Args:
            column: Its name, or its number from 1; a name wins over a number.

        Raises:
            UserError: There is none, or there are several of that name.
        """
        text = str(column)
        if isinstance(column, str):
            found = self._places.get(column)
            if found is None and not column.isdigit():
                # A name may be given as it is printed.
                found = [place for place, name in enumerate(self.names) if shown(name) == shown(column)]
            if found and len(found) > 1:
                raise UserError(
                    f"{self.label} has {len(found)} columns {short(column)!r}; choose by numbers from 1"
                )
            if found:
                return found[0]
        if _is_number(text):
            if 1 <= len(text.lstrip("0")) <= _DIGITS and int(text) <= len(self.names):
                return int(text) - 1
        elif not _is_number(text.removeprefix("-")):
            parts = [part.strip() for part in text.split(",")]
            if len(parts) > 1 and all(part in self or _is_number(part) for part in parts):
                raise UserError(
                    f"{self.label} has no column {short(text)!r}; separate columns by spaces: {' '.join(parts)}"
                )
            raise unknown(f"column of {self.label}", text, self.names)
        raise UserError(
            f"{self.label} has no column {short(text)}: columns are numbered 1 to {len(self.names)}"
        )

    def _refuse(self, count: int, dim: int, columns: Sequence[str | int] | None) -> None:
        plural = "column" if count == 1 else "columns"
        if columns is not None:
            raise UserError(f"{count} {plural} chosen ({listed(columns)}), the model takes {dim}")
        example = ""
        if count > dim:
            example = f"; choose by --columns, e.g. --columns {' '.join(str(i + 1) for i in range(dim))}"
        raise UserError(
            f"{self.label} has {count} {plural} ({listed(self.names)}), the model takes {dim}{example}"
        )


def columns_like(
    wanted: Columns, places: Sequence[int], width: int, columns: Sequence[str | int] | None, found: Columns
) -> tuple[list[int], str | None]:
    """Where a second file has the columns that were chosen of a first.

    By name, where both files name them: another order cannot pass unnoticed. Else by place, and it is said how.

    Args:
        wanted: The columns chosen of the first file.
        places: Their places in it.
        width: Columns of the first file.
        columns: How they were chosen: names or numbers; None if they were not.
        found: The second file's columns.

    Returns:
        Places in the second file, and what should be said of the match, if anything.

    Raises:
        UserError: They cannot be matched.
    """
    if wanted.named and found.named and wanted.distinct:
        for name in wanted.names:
            if name not in found:
                raise UserError(
                    f"{found.label} has no column {short(name)!r} (it has {listed(found.names)}); "
                    "name its columns alike"
                )
        chosen = [found.place(name) for name in wanted.names]
        return chosen, _left_out(found, chosen)
    count = len(found.names)
    by_number = columns is not None and all(_is_number(str(column)) for column in columns)
    if wanted.named and found.named and found.names != wanted.names and not by_number:
        # A name that occurs twice says no more than a place, and places may have changed.
        twice = next(name for place, name in enumerate(wanted.names) if name in wanted.names[:place])
        raise UserError(
            f"{found.label} has {found.names.count(twice)} columns {short(twice)!r}; choose by numbers from 1"
        )
    if count == width and (columns is None or by_number or count == len(places)):
        chosen, how = list(places), "as those of DATA"
    elif count == len(places):
        chosen, how = list(range(count)), f"in this order: {listed(wanted.names)}"
    elif columns is not None and by_number:
        chosen, how = [found.place(column) for column in columns], "by their numbers"
    elif columns is not None:
        chosen, how = found.choose(columns), "as chosen"  # names that only a file with a header has
    else:
        raise UserError(
            f"{found.label} has {count} columns, which cannot be matched by name, and DATA has {width} "
            f"(chosen: {listed(wanted.names)}); give it a header, or just these columns in this order"
        )
    same = how == "as those of DATA" and wanted.named == found.named
    if found.names == wanted.names or same:
        return chosen, _left_out(found, chosen)
    which = found.label if wanted.named else "DATA"
    return chosen, f"{which} names no columns, so those of {found.label} are taken by place, {how}"


def _left_out(found: Columns, chosen: Sequence[int]) -> str | None:
    unused = set(range(len(found.names))) - set(chosen)
    if not unused:
        return None
    names = listed([found.names[place] for place in sorted(unused)])
    return f"{len(unused)} column{'s' * (len(unused) > 1)} of {found.label} left out: {names}"


def listed(names: Sequence[str | int]) -> str:
    """The first of some names, for a message."""
    parts = ", ".join(short(str(name)) for name in names[:8])
    return f"{parts}, ..." if len(names) > 8 else parts


def _is_number(text: str) -> bool:
    """Whether a text counts: digits that Python's int() takes, and not all that Unicode calls digits."""
    return text.isascii() and text.isdigit()
