"""Pages in a real Chromium, of a platform that `make run` started: `make browser`.

A test takes `page`, a tab of its own. It fails at the end of the test if the page wrote an error or a warning to the
console, broke its Content-Security-Policy (which Chromium writes there), threw, or asked another host for something. A
test that causes such an error takes it out of `errors`. What each page has to fulfil is in `checks.py`.

| fixture | scope | |
|---|---|---|
| `run` | session | the platform, in open mode with demo data: `run.run_json()`, `run.pid("order")` |
| `run_jwt` | session | another one, which asks callers for tokens, and whose orders expire after 4 seconds |
| `own_run` | function | one that the test may kill |
| `page` | function | a tab of Playwright, 1280 px wide, in light |
| `errors` | function | what `page` has done wrong |

Tests that are marked `long` are left out of `make browser SHORT=1`, which CI runs.

`make pictures` takes the pictures of README and docs again, with the same fixtures.

Chromium is Debian's package `chromium`. The tests run in an environment of their own (`.venv-browser`), and start the
platform with the one of the other tests.
"""
