"""``python -m segfast`` is the command ``segfast``."""

from segfast.cli import main

if __name__ == "__main__":
    main()
