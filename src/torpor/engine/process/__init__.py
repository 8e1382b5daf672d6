"""Agents as plain processes: no machine, no isolation, nothing that only Linux has."""
