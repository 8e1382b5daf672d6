"""The deployment: what people can ask for, which runs get a machine, what is kept and measured.

engines     this host's engines, each made ready on first need
handing     secrets on their way to the broker
processes   the processes that a server starts beside itself, and their end
service     what people can ask for: the API calls nothing else
scheduler   which runs are claimed and when: timers, schedules, recovery
storage     what is kept on the disk: snapshots, exports, backups
observe     what can be seen of it: traces, and what this host can do
"""
