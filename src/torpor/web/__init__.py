"""What the API, the dashboard, the public pages and the command line share.

problems.py   errors as problem details (RFC 9457)
stream.py     server-sent events
shapes.py     what the API takes and gives
download.py   content as a download
words.py      runs, waits and sizes in words
forms.py      a JSON Schema as a form
"""
