"""Immutable bytes by name.

protocol   `Blobs`: what a store of them promises, whatever holds the bytes
local      a directory tree on this host
holds      who wants which names kept: records in a directory, for `local`
"""
