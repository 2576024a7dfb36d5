"""Lets Beam's --setup_file build the package for workers; all metadata are in pyproject.toml."""

from setuptools import setup

setup()
