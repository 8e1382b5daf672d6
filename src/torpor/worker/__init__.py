"""What one host does for runs: drivers, and what carries their agents.

It writes a run's log under the run's epoch (rule 4).

driver.py        one task per running run: hears its agent, freezes it, ends it
"""
