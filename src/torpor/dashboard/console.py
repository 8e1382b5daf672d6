"""The SQL console: a question, what was found, charts of it; and questions that were saved.

A question is in the page's address, so that it can be kept and sent on: it changes nothing.
"""

from __future__ import annotations

import asyncio
import csv
import io
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from torpor.core.errors import Invalid, TorporError
from torpor.core.limits import KEPT_SQL_CHARS_MAX
from torpor.dashboard import render
from torpor.dashboard.actions import go, one
from torpor.dashboard.charts import charts, numeric
from torpor.dashboard.pages import service_of
from torpor.query.ask import Question
from torpor.query.views import VIEWS
from torpor.service.queries import Rows
from torpor.web.problems import problem

ROWS = 500
CSV_ROWS = 10_000

EXAMPLES = {
    "Runs by agent and state": """SELECT agent, state, count(*) AS runs,
       round(sum(ran_s)) AS ran_s, round(sum(slept_s)) AS slept_s
FROM runs GROUP BY agent, state ORDER BY runs DESC""",
    "What models cost, by day": """SELECT date(began_at, 'unixepoch') AS day, count(*) AS calls,
       sum(input_tokens) AS input, sum(output_tokens) AS output,
       round(sum(cost_usd), 4) AS usd, count(*) - count(input_tokens) AS unknown
FROM model_calls GROUP BY day ORDER BY day""",
    "Steps that fail most": """SELECT name, count(*) AS times, sum(NOT ok) AS failed,
       round(avg(duration_s), 3) AS seconds
FROM steps GROUP BY name ORDER BY failed DESC, times DESC""",
    "How long answers take": """SELECT prompt, count(*) AS asked,
       round(avg(waited_s) / 3600, 2) AS hours
FROM waits WHERE kind = 'wait' AND state = 'completed' GROUP BY prompt ORDER BY hours DESC""",
}


async def console(request: Request) -> Response:
    service, sql = service_of(request), _sql(request)
    saved, totals = await asyncio.gather(service.queries.list(), service.totals())
    found: Rows | None = None
    trouble: dict[str, Any] | None = None
    if sql:
        try:
            found = await service.queries.ask(Question(sql, rows_max=ROWS))
        except TorporError as error:
            trouble = problem(error)
    return render.page(
        request,
        "console.html",
        status=trouble["status"] if trouble else 200,
        at="query",
        sql=sql,
        found=found,
        trouble=trouble,
        drawn=charts(found["columns"], found["rows"]) if found else [],
        numeric=numeric(found["rows"]) if found else [],
        saved=saved,
        examples=EXAMPLES,
        views=VIEWS,
        called=request.query_params.get("name", ""),
        totals=totals,
    )


async def as_csv(request: Request) -> Response:
    found = await service_of(request).queries.ask(Question(_sql(request), rows_max=CSV_ROWS))
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(found["columns"])
    writer.writerows(found["rows"])
    headers = {"content-disposition": 'attachment; filename="torpor.csv"'}
    return Response(text.getvalue().encode(errors="replace"), 200, headers, "text/csv")


async def save(request: Request) -> Response:
    saved = await service_of(request).queries.save(one(request, "name"), one(request, "sql"))
    return go(request, render.console_url(saved["sql"], saved["name"]))


async def delete(request: Request) -> Response:
    await service_of(request).queries.delete(one(request, "name"))
    return go(request, "/ui/query")


def _sql(request: Request) -> str:
    sql = request.query_params.get("sql", "").strip()
    if len(sql) > KEPT_SQL_CHARS_MAX:
        raise Invalid(f"the SQL has more than {KEPT_SQL_CHARS_MAX:,} characters")
    return sql
