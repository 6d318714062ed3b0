"""``python -m contrans_lens.cli``: the command line for launchers that start a module, such as accelerate's."""

from contrans_lens.cli import main

if __name__ == "__main__":
    main()
