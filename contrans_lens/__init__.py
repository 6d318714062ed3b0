"""Read a concept in one language model, carry it across an affine map, write it into another."""

__version__ = "0.1.0"
