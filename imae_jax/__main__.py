"""`python -m imae_jax`: exits with a hint to `main.py`, the command line."""

import sys

if __name__ == "__main__":
    sys.exit(
        "error: the command line (main.py) and the presets (configs/) are files of the "
        "repository, not of the package: run python main.py in a clone; what is installed "
        "is a library, which starts at imae_jax.load"
    )
