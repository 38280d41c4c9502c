"""``python -m vdu``: the command line."""

from vdu.cli import main

if __name__ == "__main__":
    main()
