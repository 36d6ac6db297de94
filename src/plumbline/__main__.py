"""`python -m plumbline`, which is what torchrun starts."""

from plumbline.cli import main

if __name__ == "__main__":
    main()
