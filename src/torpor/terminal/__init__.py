"""What the command line and the benches print: data on stdout, progress and remarks on stderr.

screen    where things go, and how: text, tables, JSON
columns   tables that fit a terminal
"""
