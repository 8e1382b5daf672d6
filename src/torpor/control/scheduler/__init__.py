"""Which runs get a machine, and when: claims, timers, schedules, recovery."""
