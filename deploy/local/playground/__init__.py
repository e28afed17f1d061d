"""The playground of `make run`: a small shop, buttons that break things, and how everything comes back.

| module | what it knows |
|---|---|
| `application` | which requests are served |
| `pages` | the pages, in the languages of `texts`, and what each request does |
| `shop` | what demo customers do, by the services' public API |
| `faults` | how a process of this run is broken, that every fault ends, and how long the platform needs after it |
| `health` | what each process does now |
| `books` | what `make audit` says |
| `running` | its port, and what it calls and breaks |

It runs inside the process of `make run`, which has the processes that it breaks, and listens on the loopback address.
"""
