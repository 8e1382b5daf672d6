"""The dashboard, for people: runs, waits, agents, queues, schedules, storage and SQL as pages,
filled in here.

    browser ──► guard        a session, CSRF, what a browser is told to allow
                pages        GET: asks the service, renders            actions   POST: one call each
                live         a run's timeline as it grows, as server-sent events
    console     questions in SQL, saved ones, charts
    pure        timeline     entries → items     turns   a model call → a turn     life   the strip
                answering    a schema → a form   charts  rows → bars
                terminal     what was printed → styled lines     tracebacks   a traceback → frames
    sessions    one-time links and who has used one
    render      templates/, with everything escaped: what agents say is hostile
    assets      static/, which has htmx (https://htmx.org, 0BSD) as it was published

It decides nothing: what it shows and does are the calls of the service that the API makes, too.
Nothing is built and nothing is loaded from elsewhere; pages work without scripts, which add what is
live and the keys.
"""
