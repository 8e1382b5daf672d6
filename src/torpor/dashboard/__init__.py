"""The dashboard, for people: runs, waits, agents, queues, schedules, secrets, storage and SQL, as
pages.

app          the dashboard put together
guard        sessions, CSRF, what a browser is told to allow
sessions     one-time links, and who has used one
pages        GET: asks the service, fills a template in
actions      POST: one call of the service each
live         a run's timeline as it grows, as server-sent events
console      SQL: a question, its answer, saved ones
render       templates; whatever an agent said is escaped
assets       static files, under names that change with their content
timeline     pure: a run's entries into items
turns        pure: a model call into a turn of the conversation
life         pure: when a run had a machine and when it slept, drawn
answering    pure: a schema into a form, and what was typed into it
charts       pure: what a query found, drawn
terminal     pure: what was printed into styled lines
tracebacks   pure: a traceback into frames, those of libraries folded

It decides nothing: what it shows and does are the calls of the service that the API makes, too.
Nothing is built and nothing is loaded from elsewhere (static/ has htmx, https://htmx.org, 0BSD, as
it was published); pages work without scripts, which add what is live and the keys.
"""
