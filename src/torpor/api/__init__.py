"""The HTTP API: turns requests into calls of the service, and its errors into problem details.

It decides nothing. `app` has the endpoints, `shapes` what comes in and goes out, `stream` the
server-sent events, `problems` the errors, `limits` the size of bodies, `server` the process.
"""
