"""The page that a waitpoint's public URL leads to: for people without an account, and programs.

    GET  /w/TOKEN   the question, what the agent shows with it, a form made from its schema
    POST /w/TOKEN   the answer: the form's fields, or JSON as for /v1/waits/{ref}/complete

    forms    pure: a schema → the fields of a form; what was typed → the answer, or what is wrong
    pages    the two requests above, for browsers as pages, for others as JSON
    static   one style sheet; pages have no script and load nothing from elsewhere

Whoever has the URL may answer, once: `torpor.control.service.links`. Nothing else can be reached
from it; all that an agent says is escaped.
"""
