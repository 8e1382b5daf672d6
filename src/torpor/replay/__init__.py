"""Recorded history and an operation in, a recorded result, "live" or a divergence out. Pure."""
