"""What people can ask for: runs, waits, agents, queues, hooks, keys.

service     `Service`: what the API calls
deploying   agents: from a source to a version that can run
forking     forks, retries and reloads
executing   commands beside agents
waiting     waits, answers, events
links       public links of waits
webhooks    webhooks out: who is told that a run waits
hooks       webhooks in: who may send what, and what becomes of it
queueing    queues, seen and changed
artifacts   files that runs published
deleting    ended runs, deleted; retention
access      API keys and tokens
"""
