"""What the API, the dashboard, the public pages and the command line share.

problems   errors as problem details (RFC 9457)
stream     server-sent events
requests   what requests have in common
download   content as a download
words      runs, waits and sizes in words
forms      a JSON Schema as a form
verdicts   the buttons under approvals and permissions
"""
