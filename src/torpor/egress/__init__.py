"""The broker: the only process that holds secrets, and a machine's only way out (rules 9, 10).

    client ──Unix socket──► app ──► calls ──► upstream   a real API, with our key
                         allow-list each once    local      a small model (llama.cpp)
                         limits                  standin    a script, which says so
                                   `choice` picks one of the three, once, at start

app         the broker's HTTP face: what is allowed, in which size
calls       model calls by their identity, each made once
choice      which upstream this broker has
upstream    a real API
local       a small model on this host's CPU
llama       that model's process
standin     a script, where there is no model at all
protocol    what a worker and the broker say to each other: frames
admission   what the judge decides: how a request goes out, or why it does not
judge       everything that decides: rules, budgets, addresses, secrets
hostfile    what the host says about all agents: egress.toml
resolve     which addresses a name leads to, and whether these may be reached
secrets     whom secrets serve, and that they do not come back
budgets     what runs, agents and keys may use
connection  a connection to the broker: many streams over one socket
authority   certificates for the gateways in machines
client      how other processes ask the broker
whole       how they did before there were frames
models      the way to a model: the broker, started when it is not there
launch      starting and stopping the broker's process
__main__    that process

Every part of torpor that wants a language model asks here, over `run/broker.sock`, with a
placeholder where the key would stand; the real one is put in on the way out and taken out of
whatever comes back.

A call has an identity and is made once, whoever dies meanwhile but this process. A reply is read
whole before it is handed on, because its other end may be a machine that is frozen by then, and
because the context log records replies, not streams.
"""
