"""`python -m qwenlong`."""

from qwenlong.cli import main

if __name__ == "__main__":
    main()
