"""Grey levels: a canvas is 8-bit, and as floats in [0, 1] unless levels are said."""

WHITE = 255
"""The highest level."""
