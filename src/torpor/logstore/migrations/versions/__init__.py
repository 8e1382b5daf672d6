"""The revisions, oldest first by name: `vNNNN_what` brings a database to version NNNN.

v0003_first   the tables as they were before there were migrations
"""
