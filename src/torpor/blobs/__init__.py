"""Immutable bytes by name, on the local disk (`local`)."""
