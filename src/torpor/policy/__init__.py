"""Pure decisions: facts in, decision out, nothing done. Control acts on them.

freeze       when a run is suspended
recovery     what becomes of a run that nobody holds, that waits, or whose carrier was lost
divergence   what becomes of a run whose agent does not do what its log says
retries      whether a run that failed is tried again, when, with how much memory
queues       which waiting runs get a machine now
admission    how many machines may run at once on a host
schedules    when a schedule fires, and what becomes of the times it missed
retention    which snapshots and templates are kept
inputs       whether an input is what an agent takes
answers      whether an answer is what a wait asks for
permissions  what a person is shown of a permission
edits        which of an agent's steps a change of its files touches
signing      signed messages, as Standard Webhooks has them
"""
