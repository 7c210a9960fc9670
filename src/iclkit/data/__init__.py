"""Users' tables: read from files and checked, in bounded memory. Nothing here needs torch."""

from iclkit.data.bounds import LARGEST
from iclkit.data.opened import STANDARD_INPUT
from iclkit.data.table import Table, read_table, refuse_constant_columns

__all__ = ["LARGEST", "STANDARD_INPUT", "Table", "read_table", "refuse_constant_columns"]
