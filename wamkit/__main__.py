"""`python -m wamkit`, the same as the command `wamkit`."""

from .cli import main

if __name__ == "__main__":
    main()
