"""The command line, config, wiring and demo. Knows everything, and is known by nobody."""

__version__ = "0.1.0"
