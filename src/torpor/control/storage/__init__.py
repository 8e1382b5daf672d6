"""What is kept on the disk: snapshots and their garbage, exports, backups."""
