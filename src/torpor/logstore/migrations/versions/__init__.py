"""The revisions, oldest first by name: `vNNNN_what` brings a database to version NNNN.

v0003_first                 the tables as they were before there were migrations
v0004_engine_of_agents      the engine of an agent's version, which its image told before
v0005_leases                which worker carries a run, and until when
v0006_permissions           for what a person's decision counts, and what has used it
v0007_authorities_secrets   certificate authorities, and secrets of agents
v0008_budgets               agents' budgets, and an index of what went out
v0009_spent                 what went out, added up; the API key that started a run
"""
