"""Placeholder until the public names are in."""
