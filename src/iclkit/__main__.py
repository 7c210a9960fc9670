"""`python -m iclkit`, which torchrun needs; the same as the `iclkit` command."""

from iclkit.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
