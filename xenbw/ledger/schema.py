"""The ledger's tables and the way from one version to the next."""

from __future__ import annotations

import sqlite3

_V1 = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value) WITHOUT ROWID;
INSERT INTO meta VALUES ('rev', 0), ('id', lower(hex(randomblob(8))));

CREATE TABLE vm (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL,
    found_at TEXT NOT NULL,
    added_at TEXT,
    retired_at TEXT,
    limit_bytes INTEGER,
    unlimited INTEGER NOT NULL DEFAULT 0,
    count TEXT,
    warn_percent INTEGER,
    action TEXT,
    reset_day INTEGER,
    ips TEXT NOT NULL DEFAULT '',
    config_file TEXT,
    period_start TEXT,
    period_rule TEXT,
    state TEXT NOT NULL DEFAULT 'ok',
    state_reason TEXT NOT NULL DEFAULT '',
    state_since TEXT,
    blocked_reason TEXT,
    lifted_until TEXT,
    book_base TEXT,
    rev INTEGER NOT NULL
);
CREATE UNIQUE INDEX vm_name ON vm (name) WHERE retired_at IS NULL;

CREATE TABLE binding (
    id INTEGER PRIMARY KEY,
    vm_id INTEGER NOT NULL REFERENCES vm (id),
    boot_id TEXT NOT NULL,
    domid INTEGER NOT NULL,
    devid INTEGER NOT NULL,
    kind TEXT NOT NULL,
    ifindex INTEGER NOT NULL,
    interface TEXT NOT NULL,
    mac TEXT,
    ips TEXT NOT NULL DEFAULT '',
    bridge TEXT,
    started_at TEXT NOT NULL,
    ended_at TEXT,
    end_reason TEXT,
    in_bytes INTEGER NOT NULL DEFAULT 0,
    out_bytes INTEGER NOT NULL DEFAULT 0,
    last_in INTEGER NOT NULL DEFAULT 0,
    last_out INTEGER NOT NULL DEFAULT 0,
    last_at TEXT,
    rev INTEGER NOT NULL
);
CREATE UNIQUE INDEX binding_live ON binding (boot_id, ifindex) WHERE ended_at IS NULL;
CREATE INDEX binding_interface ON binding (boot_id, ifindex);
CREATE INDEX binding_vm ON binding (vm_id, started_at);

CREATE TABLE usage (
    vm_id INTEGER NOT NULL REFERENCES vm (id),
    period_start TEXT NOT NULL,
    hour TEXT NOT NULL,
    in_bytes INTEGER NOT NULL,
    out_bytes INTEGER NOT NULL,
    divided_bytes INTEGER NOT NULL DEFAULT 0,
    rev INTEGER NOT NULL,
    PRIMARY KEY (vm_id, period_start, hour)
) WITHOUT ROWID;

CREATE TABLE elsewhere (
    vm_id INTEGER PRIMARY KEY REFERENCES vm (id),
    period_start TEXT NOT NULL,
    in_bytes INTEGER NOT NULL,
    out_bytes INTEGER NOT NULL
);

CREATE TABLE reading (
    binding_id INTEGER NOT NULL REFERENCES binding (id),
    at TEXT NOT NULL,
    in_raw INTEGER NOT NULL,
    out_raw INTEGER NOT NULL,
    in_bytes INTEGER NOT NULL,
    out_bytes INTEGER NOT NULL,
    rev INTEGER NOT NULL,
    PRIMARY KEY (at, binding_id)
) WITHOUT ROWID;

CREATE INDEX reading_rev ON reading (rev);
CREATE INDEX usage_rev ON usage (rev);
CREATE INDEX binding_rev ON binding (rev);

CREATE TABLE block (
    id INTEGER PRIMARY KEY,
    vm_id INTEGER NOT NULL REFERENCES vm (id),
    cause TEXT NOT NULL,
    reason TEXT NOT NULL,
    since TEXT NOT NULL,
    until TEXT,
    lifted_at TEXT,
    lift_reason TEXT,
    rev INTEGER NOT NULL
);
CREATE UNIQUE INDEX block_active ON block (vm_id) WHERE lifted_at IS NULL;
CREATE INDEX block_vm ON block (vm_id, since);

CREATE TABLE event (
    id INTEGER PRIMARY KEY,
    at TEXT NOT NULL,
    vm_id INTEGER REFERENCES vm (id),
    kind TEXT NOT NULL,
    text TEXT NOT NULL,
    rev INTEGER NOT NULL
);
CREATE INDEX event_at ON event (at);

CREATE TABLE outbox (
    id INTEGER PRIMARY KEY,
    created_at TEXT NOT NULL,
    subject TEXT NOT NULL,
    body TEXT NOT NULL,
    tries INTEGER NOT NULL DEFAULT 0,
    next_at TEXT NOT NULL,
    sent_at TEXT
)
"""

# outbox: a message's channel, and why its last delivery failed; older messages go by mail. binding: what our counters
# counted beside usage, and up to where they were read (rows.mark_columns). binding_usage: what a binding counted in a
# period; its trigger is for daemons of the version before, which delete bindings without it. unmetered: running domains
# with traffic that this dom0 does not see. digest: the sums of bindings that were folded.
_V2 = """
ALTER TABLE outbox ADD COLUMN channel TEXT NOT NULL DEFAULT 'mail';
ALTER TABLE outbox ADD COLUMN failure TEXT;
ALTER TABLE binding ADD COLUMN flood_bytes INTEGER NOT NULL DEFAULT 0;
ALTER TABLE binding ADD COLUMN refused_in_bytes INTEGER NOT NULL DEFAULT 0;
ALTER TABLE binding ADD COLUMN refused_out_bytes INTEGER NOT NULL DEFAULT 0;
ALTER TABLE binding ADD COLUMN own_last TEXT;

CREATE TABLE binding_usage (
    binding_id INTEGER NOT NULL REFERENCES binding (id),
    period_start TEXT NOT NULL,
    in_bytes INTEGER NOT NULL,
    out_bytes INTEGER NOT NULL,
    PRIMARY KEY (binding_id, period_start)
) WITHOUT ROWID;
CREATE TRIGGER binding_gone AFTER DELETE ON binding
BEGIN DELETE FROM binding_usage WHERE binding_id = OLD.id; END;

CREATE TABLE unmetered (
    vm_id INTEGER PRIMARY KEY REFERENCES vm (id),
    boot_id TEXT NOT NULL,
    wholly INTEGER NOT NULL,
    reason TEXT NOT NULL
);

CREATE TABLE digest (
    id INTEGER PRIMARY KEY,
    vm_id INTEGER NOT NULL REFERENCES vm (id),
    period_start TEXT NOT NULL,
    end_reason TEXT NOT NULL,
    lives INTEGER NOT NULL,
    started_at TEXT NOT NULL,
    ended_at TEXT NOT NULL,
    ips TEXT NOT NULL,
    in_bytes INTEGER NOT NULL,
    out_bytes INTEGER NOT NULL,
    flood_bytes INTEGER NOT NULL,
    refused_in_bytes INTEGER NOT NULL,
    refused_out_bytes INTEGER NOT NULL,
    rev INTEGER NOT NULL,
    UNIQUE (vm_id, period_start, end_reason)
);
CREATE INDEX digest_rev ON digest (rev);
CREATE INDEX binding_month ON binding (vm_id, substr(ended_at, 1, 7)) WHERE ended_at IS NOT NULL
"""

# What a VM may reach while it is blocked; null: what the configuration allows.
_V3 = "ALTER TABLE vm ADD COLUMN allow TEXT"

# The rates, in bits a second, of a VM that is throttled, and the hard limit; null: the configuration's default.
_V4 = """
ALTER TABLE vm ADD COLUMN rate INTEGER;
ALTER TABLE vm ADD COLUMN rate_in INTEGER;
ALTER TABLE vm ADD COLUMN hard_limit_bytes INTEGER
"""

# The history that usage by the hour makes: all that earlier versions kept, and that a replaced ledger has. Folded rows
# (folding.py) have other times.
HISTORY_OF_USAGE = """
INSERT INTO history (vm_id, span, start, in_bytes, out_bytes)
    SELECT vm_id, 3600, CAST(strftime('%s', substr(hour, 1, 19)) AS INTEGER) / 3600 * 3600 AS start,
        sum(in_bytes), sum(out_bytes) FROM usage WHERE hour >= '1970'
        AND substr(hour, 20) = '.000000+00:00' AND strftime('%s', substr(hour, 1, 19)) NOT NULL
    GROUP BY vm_id, start HAVING sum(in_bytes) + sum(out_bytes) > 0"""

# The history of each VM; `start` in seconds since 1970. history_run: 288 values of one span together (runs.py).
_V5 = f"""
CREATE TABLE history (
    vm_id INTEGER NOT NULL REFERENCES vm (id),
    span INTEGER NOT NULL,
    start INTEGER NOT NULL,
    in_bytes INTEGER NOT NULL DEFAULT 0,
    out_bytes INTEGER NOT NULL DEFAULT 0,
    flood_bytes INTEGER NOT NULL DEFAULT 0,
    refused_in_bytes INTEGER NOT NULL DEFAULT 0,
    refused_out_bytes INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (vm_id, span, start)
) WITHOUT ROWID;
CREATE TABLE history_run (
    vm_id INTEGER NOT NULL REFERENCES vm (id),
    span INTEGER NOT NULL,
    start INTEGER NOT NULL,
    amounts TEXT NOT NULL,
    PRIMARY KEY (vm_id, span, start)
);
{HISTORY_OF_USAGE}"""

# warn_percents: the VM's thresholds if it has several; warn_percent is the first of them, for older programs and books.
# threshold: the highest that its usage had reached when it was judged. forecast_at: what a forecast last told.
_V6 = """
ALTER TABLE vm ADD COLUMN warn_percents TEXT;
ALTER TABLE vm ADD COLUMN threshold INTEGER;
ALTER TABLE vm ADD COLUMN forecast_at TEXT
"""

# outbox: the kind of a message's announcement, '' if an earlier version queued it; its facts as JSON, until it is sent;
# letter: the id of the first of the messages that go as one mail.
_V7 = """
ALTER TABLE outbox ADD COLUMN kind TEXT NOT NULL DEFAULT '';
ALTER TABLE outbox ADD COLUMN facts TEXT;
ALTER TABLE outbox ADD COLUMN letter INTEGER;
CREATE INDEX outbox_waiting ON outbox (channel, id) WHERE sent_at IS NULL
"""

# The tenant's addresses; null: none.
_V8 = "ALTER TABLE vm ADD COLUMN mail TEXT"

# A released migration is never changed. During an upgrade the hook and the daemon of the version before work with the
# new schema, so a migration only adds: tables, and columns with defaults in tables into which no program inserts by
# position.
MIGRATIONS: tuple[str, ...] = (_V1, _V2, _V3, _V4, _V5, _V6, _V7, _V8)
VERSION = len(MIGRATIONS)


def migrate(db: sqlite3.Connection) -> None:
    """Bring a ledger that is not newer than this code to VERSION, in one transaction. Only forward."""
    db.execute("BEGIN IMMEDIATE")
    try:
        # Asked again inside the transaction: another process may just have upgraded the ledger.
        version = db.execute("PRAGMA user_version").fetchone()[0]
        for script in MIGRATIONS[version:]:
            for statement in script.split(";\n"):
                db.execute(statement)
        db.execute(f"PRAGMA user_version = {max(version, VERSION)}")
        db.execute("COMMIT")
    except BaseException:
        # At a full disk SQLite itself may have rolled back, in COMMIT.
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise
