"""Immutable bytes by name.

local   on the local disk
"""
