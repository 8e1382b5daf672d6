"""Fakes of torpor's own parts, for its tests and for those of programs that use its service. Suites
that run against the real parts as well keep them true. They load the control plane, which
`torpor.testing` does not.

service     a deployment in memory, to be served or called
memory      its runs, which do what their input says
resources   its resources: what runs do
canned      its resources: what is always the same
world       scheduler and drivers over a real log, with machines that are played
machines    those machines, their engine and their pager
puppet      the inside of such a machine
plain       scheduler and drivers over a real log, with real processes
broker      a broker without its process
blobs       a store of blobs in memory
"""
