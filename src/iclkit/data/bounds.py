"""What a file may ask of time and memory, whatever its bytes say; checked before the work."""

# Squares of larger numbers, which moments need, are not finite in double precision.
LARGEST = 1e150
# Numbers that are held: 256 MiB of them.
MOST_NUMBERS = 1 << 25
MOST_COLUMNS = 100_000
# Characters of one row: room for MOST_COLUMNS numbers. As cells they take 30 times as much.
LONGEST_ROW = 1 << 22
# Rows of a file that is too long are counted no further than this, nor beyond so many characters.
COUNTED = 100_000
COUNTED_TEXT = 1 << 24
# Lines of comments before the first row.
MOST_COMMENTS = 100_000
# Rows without any value among the others: as many as a spreadsheet has.
MOST_EMPTY = 1 << 20
# Bytes that come in by a pipe, which are kept on disk while they are read.
MOST_PIPED = 1 << 28
