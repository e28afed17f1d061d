"""Classify Postgres' errors by SQLSTATE: transient, or a bug of ours.

A transient error ends without a change of our code: the server or the network recovers, or an operator grants a right,
frees a disk or migrates a schema. The caller gets 503 and may repeat; background loops retry. A bug is an error of our
own SQL, which stays however long one waits.

Each table maps a code of five characters, or the two characters of its class, to the reason. A code comes before its
class. The codes are those of Postgres' appendix "PostgreSQL Error Codes", up to version 18.
"""

from collections.abc import Mapping

TRANSIENT: Mapping[str, str] = {
    "08": "the connection failed; a pooler reports its own errors as 08P01",
    "0P": "a role is missing or may not be taken: roles are made by deploy/sql/roles.sql",
    "2200H": "a sequence came to its end: ALTER SEQUENCE",
    "25006": "the server is a standby, or was made read-only",
    "25P03": "idle_in_transaction_session_timeout ended the session of a process that was paused",
    "25P04": "transaction_timeout ended the transaction",
    "26": "a pooler gave the session another connection, where nothing is prepared",
    "28": "the password, the role or pg_hba.conf is not right yet",
    "2BP01": "somebody's view or foreign key depends on what is to be dropped",
    "3D": "the database is not there yet",
    "3F": "the schema is not there yet",
    "40": "a deadlock, or a conflict of serializable transactions: the repeat succeeds",
    "42501": "a grant is missing, or row level security was switched on",
    "42703": "a column is missing: the schema is older than this build",
    "42704": "a type, role or setting is missing: the schema or the server is older than this build",
    "42883": "a function is missing: the schema is older than this build",
    "42P01": "a table is missing: the schema is older than this build",
    "42P05": "a pooler gave the session a connection where the name is prepared already",
    "42P10": "a unique index is missing: the schema is older than this build, or it was dropped",
    "53": "no connections, memory or disk, or a limit of the configuration is reached",
    "54000": "no transaction ids are left, until the database is vacuumed",
    "55": "the database or an object does not accept this now: ALLOW_CONNECTIONS false, in use, locked",
    "57": "the server is stopping, starting or recovering, or somebody cancelled the statement",
    "58": "the server's disk or operating system failed",
    "72": "old_snapshot_threshold removed what the statement still had to read",
    "F0": "the server's configuration file is wrong or locked",
    "HV": "a foreign table is in the place of a table of ours; an operator replaces it",
    "XX": "the server has a bug, or its data or an index is corrupted",
}
BUGS: Mapping[str, str] = {
    "00": "success: never an error",
    "01": "a warning: never an error",
    "02": "no data: never an error but where a function of ours raises it",
    "03": "embedded SQL's, which we don't use",
    "09": "a trigger of ours failed",
    "0A": "our SQL asks for what Postgres cannot do; a cached plan that a migration made invalid is known by its class",
    "0B": "our SQL begins a transaction in one",
    "0F": "large objects, which we don't use",
    "0L": "a GRANT of ours is wrong",
    "0Z": "a function of ours asks for diagnostics where there are none",
    "10": "XQuery, which we don't use",
    "20": "a CASE of ours lacks a branch",
    "21": "a subquery of ours has more than one row",
    "22": "a value that our checks should have refused, or arithmetic of ours",
    "23": "a constraint is violated: store.py translates those that mean something",
    "24": "cursors, which we don't use",
    "25": "our statements are in the wrong place of a transaction",
    "27": "a trigger of ours changes what its statement changes",
    "2B": "a REVOKE of ours leaves grants behind",
    "2D": "a function of ours ends a transaction where it may not",
    "2F": "a function of ours does what it was declared not to do",
    "34": "cursors, which we don't use",
    "38": "a function in another language, which we don't use",
    "39": "a function in another language, which we don't use",
    "3B": "a savepoint of ours is not there",
    "42": "our SQL does not fit its own schema, or is no SQL",
    "44": "a view WITH CHECK OPTION, which we don't use",
    "54": "our statement is too large: too many columns, arguments or levels",
    "55P02": "our SQL sets what only a restart may change",
    "55P04": "a migration of ours uses an enum's value in the transaction that adds it",
    "P0": "a function of ours raised it",
}


# Classes whose transient errors need an operator, and the codes in them that do not.
_OPERATORS = ("25", "42", "53", "54", "55", "58", "XX")
_PASSING = ("25P03", "25P04", "42P05", "53300", "55P03")


def is_transient(sqlstate: str | None, severity: str | None = None) -> bool:
    """Return whether an error of the server is transient.

    `severity`: as the server names it in English. FATAL and PANIC end the session, which no statement of ours does.
    A code of no known class is a bug: only functions raise such codes, and ours are translated in store.py.
    """
    return severity in ("FATAL", "PANIC") or _entry(sqlstate or "") in TRANSIENT


def needs_operator(sqlstate: str) -> bool:
    """Return whether a transient error lasts until an operator acts, so that an immediate retry fails again."""
    return _entry(sqlstate) in TRANSIENT and sqlstate[:2] in _OPERATORS and sqlstate not in _PASSING


def reason(sqlstate: str) -> str:
    """Return why the code is transient or a bug, for the log; empty if no table has it."""
    entry = _entry(sqlstate)
    return TRANSIENT.get(entry) or BUGS.get(entry, "")


def _entry(code: str) -> str:
    return code if code in TRANSIENT or code in BUGS else code[:2]
