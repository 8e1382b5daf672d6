"""What people can ask for: runs, waits, agents, queues, hooks, keys."""
