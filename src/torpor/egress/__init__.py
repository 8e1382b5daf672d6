"""The broker: the only process that holds secrets, and a machine's only way out (rules 9, 10).

    worker ──Unix socket──► server ──► judge ──► exchange   any host that a rule allows
                 frames        │                 relay      connections, WebSockets
                               ▼
                             calls ──► upstream  the deployment's own model: a real API, our key
                           each once   local     a small model (llama.cpp)
                                       standin   a script, which says so
                                       `choice` picks one of the three, once, at start

server      the broker's door: frames of workers in, streams served, all of it bounded
served      one stream of a worker's: the body that comes, the answer that goes
calls       recorded calls by their identity, each made once
admission   what the judge decides: how a request goes out, or why it does not
exchange    one request out over HTTP/1.1, and its answer as it comes
relay       bytes both ways: connections, and WebSockets after their 101
answer      what a sender tells a listener: head, data, end; or that there is none
choice      which upstream this broker has for the deployment's own model
upstream    a real API
local       a small model on this host's CPU
llama       that model's process
standin     a script, where there is no model at all
protocol    what a worker and the broker say to each other: frames
judge       everything that decides: rules, budgets, addresses, secrets
hostfile    what the host says about all agents: egress.toml
resolve     which addresses a name leads to, and whether these may be reached
secrets     whom secrets serve, and that they do not come back
budgets     what runs, agents and keys may use
authority   certificates for the gateways in machines
sealed      secrets of agents, sealed for the broker
connection  a connection to the broker: many streams over one socket
client      how other processes ask the broker, started when it is not there
launch      starting and stopping the broker's process
__main__    that process

What a machine sends is judged, and a request of our own is made of it: no byte of a machine's is
parsed as HTTP or TLS here. Secrets are put in on the way out, and an answer ends where
one is found in it.

A recorded call has an identity and is made once, whoever dies meanwhile but this process; it is
read to its end whoever listens, because its other end may be a machine that is frozen by then.
"""
