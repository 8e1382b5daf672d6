"""The page that a waitpoint's public URL leads to: for people without an account, and programs.

    GET /w/TOKEN    the question, what the agent shows with it, a form made from its schema
    POST /w/TOKEN   the answer: the form's fields, or JSON as for /v1/waits/{ref}/complete

pages   both requests, for browsers as pages, for others as JSON

Whoever has the URL may answer, once: `torpor.control.service.links`. Nothing else can be reached
from it; all that an agent says is escaped. Its style sheet is in static/; there is no script.
"""
