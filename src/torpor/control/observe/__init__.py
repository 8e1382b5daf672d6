"""What can be seen of torpor at work: traces, and what its host can do."""
