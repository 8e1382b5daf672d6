"""The command line. It decides nothing: it asks the server and shows the answer.

stdout carries what was asked for (data, the agent's output, its result), stderr all that is said
about it.

entry         what runs first of `torpor`, before the rest is loaded
main          the program: its commands, and how errors are shown
commands      the commands, as data
lazy          commands that are loaded when they are used
exits         exit codes
options       options and arguments that many commands have
agents        run, deploy
dev           dev: an agent that runs as it is written
watching      an agent's files, watched for saves
versions      agents, upgrade
egress        egress: rules, tried; what went out
reaching      what an agent may reach, and what is new of it
ps            ps
top           top
runs          show, trace, cancel
logs          logs
parts         answers of models in a log, while they come
attach        attach: following a run in the terminal
query         query
exec          exec, shell
forks         fork, retry
copying       cp
fetching      files out of a run's working directory
storage       snapshots, gc, result, export, import, backup, restore
deleting      delete, retention
schedules     schedules
queues        queues
waits         waits, approve, deny, complete
events        send
hooks         hooks
host          doctor, setup, up, down
dashboard     dashboard: a link to it
mcp           mcp: runs and waits as tools of the Model Context Protocol
keys          keys
secrets       secrets of agents
bench         bench
inputs        a run's input as it is typed
given         which of this host's files a run is given
environment   environment variables as they are typed, or stand in a file
question      a wait as a question: keys in, an answer out
answering     what a person may answer, how, and as whom
filling       a form, filled in line by line
family        runs and their forks, as a tree
files         the files of a run, as `show` lists them
timeline      a run's log as a timeline
saving        files that commands write: whole or not at all
complete      what a shell offers for a word that is being typed
terminal      this terminal, key by key
"""
