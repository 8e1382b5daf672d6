"""Which runs get a machine, and when: claims, timers, schedules, recovery.

scheduler   the loop: claims runs, wakes those whose time has come, recovers what was lost
claims      which runs are to be claimed now
schedules   schedules: fired, seen and changed
"""
