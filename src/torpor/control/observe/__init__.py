"""What can be seen of torpor at work: traces, and what its host can do.

doctor      what this host can do, which engine it would use, and why
spans       a run's log as the spans of a trace
telemetry   those spans, sent by OTLP
"""
