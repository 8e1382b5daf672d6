"""What travels between a machine and its host: bytes in, events out, no I/O. Runs on both sides
of the link, so standard library only and light to import."""
