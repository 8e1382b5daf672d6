"""What travels between a machine and its host: bytes in, events out, no I/O. Runs on both sides
of the link, so standard library only and light to import.

link       messages over a byte channel that every freeze cuts
messages   each message, its fields, and who sends it
names      the names of all messages
streams    frames of HTTP exchanges and TCP connections
wayout     what messages say of the way out
checks     what a field of a message may be
"""
