"""What is kept on the disk: snapshots and their garbage, exports, backups.

storage    what snapshots take: kept, verified, collected
transfer   a run as one file: exported, imported
archive    that file
trusted    the certificate authorities in it
backup     a copy of a data directory in use, and back
"""
