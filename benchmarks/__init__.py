"""Speed figures, each measured against a naive version in the same process: `make bench`."""
