"""Recorded history and an operation in, a recorded result, "live" or a divergence out. Pure.

journal   what the log holds past a snapshot, matched to what a restored agent asks for again
"""
