-- Times are BIGINT microseconds since 1970 (UTC); lengths of time are BIGINT microseconds, names end in _us.
-- Truth values are BIGINT 0 or 1. JSON is TEXT. Numbers are handed out by `counters` and never reused.
-- As the other engine's step, with names sorted by bytes so that exports are equal.

CREATE TABLE counters (
    name   TEXT COLLATE "C" PRIMARY KEY,
    value  BIGINT NOT NULL
);

CREATE TABLE settings (
    name   TEXT COLLATE "C" PRIMARY KEY,
    value  TEXT NOT NULL
);

-- The register.
CREATE TABLE systems (
    id             TEXT COLLATE "C" PRIMARY KEY,
    name_ja        TEXT NOT NULL,
    name_en        TEXT NOT NULL,
    owner          TEXT NOT NULL,
    vendor         TEXT NOT NULL,
    contact        TEXT NOT NULL,
    protection     TEXT NOT NULL CHECK (protection IN ('critical', 'important', 'standard')),
    data_class     TEXT NOT NULL CHECK (data_class IN ('ehr', 'other')),
    rpo_us         BIGINT NOT NULL,
    rto_us         BIGINT NOT NULL,
    restore_order  BIGINT NOT NULL,
    server         TEXT NOT NULL,
    writer         TEXT NOT NULL CHECK (writer IN ('kuramori', 'restic')),
    source         TEXT NOT NULL,
    schedule       TEXT NOT NULL,
    retention      TEXT NOT NULL,
    expectations   TEXT NOT NULL,
    enabled        BIGINT NOT NULL CHECK (enabled IN (0, 1)),
    version        BIGINT NOT NULL,
    created_at     BIGINT NOT NULL,
    changed_at     BIGINT NOT NULL,
    handled_due    BIGINT NOT NULL
);

-- Sealed blobs only; the catalog cannot open them.
CREATE TABLE secrets (
    name        TEXT COLLATE "C" PRIMARY KEY,
    sealed      BYTEA NOT NULL,
    changed_at  BIGINT NOT NULL
);

CREATE TABLE runs (
    id            BIGINT PRIMARY KEY,
    system        TEXT NOT NULL REFERENCES systems (id),
    server        TEXT NOT NULL,
    kind          TEXT NOT NULL,
    reason        TEXT NOT NULL,
    due           BIGINT,
    state         TEXT NOT NULL CHECK (state IN
                    ('queued', 'running', 'complete', 'complete_with_errors', 'failed', 'cancelled')),
    owner         TEXT,
    epoch         BIGINT NOT NULL,
    lease_until   BIGINT,
    cancel        BIGINT NOT NULL CHECK (cancel IN (0, 1)),
    queued_at     BIGINT NOT NULL,
    started_at    BIGINT,
    ended_at      BIGINT,
    heartbeat_at  BIGINT,
    progress_at   BIGINT,
    phase         TEXT NOT NULL,
    bytes_done    BIGINT NOT NULL,
    bytes_total   BIGINT,
    items_done    BIGINT NOT NULL,
    items_total   BIGINT,
    facts         TEXT NOT NULL,
    error_code    TEXT,
    error_text    TEXT,
    point         BIGINT
);
CREATE UNIQUE INDEX runs_one_per_server ON runs (server) WHERE state = 'running';
CREATE UNIQUE INDEX runs_one_open_per_system ON runs (system, kind) WHERE state IN ('queued', 'running');
CREATE UNIQUE INDEX runs_one_per_due ON runs (system, kind, due) WHERE due IS NOT NULL;
CREATE INDEX runs_by_system ON runs (system, id);

CREATE TABLE points (
    place         TEXT COLLATE "C" NOT NULL CHECK (place IN ('primary', 'vault')),
    system        TEXT NOT NULL REFERENCES systems (id),
    sequence      BIGINT NOT NULL,
    received_at   BIGINT NOT NULL,
    received_age  BIGINT NOT NULL,
    snapshot      TEXT NOT NULL,
    run           BIGINT,
    bytes         BIGINT NOT NULL,
    added         BIGINT,
    files         BIGINT NOT NULL,
    complete      BIGINT NOT NULL CHECK (complete IN (0, 1)),
    verdict       TEXT NOT NULL CHECK (verdict IN ('unknown', 'clean', 'suspect', 'corrupt')),
    facts         TEXT NOT NULL,
    drilled_at    BIGINT,
    removed_at    BIGINT,
    removed_age   BIGINT,
    PRIMARY KEY (place, sequence)
);
CREATE UNIQUE INDEX points_by_snapshot ON points (place, system, snapshot);
CREATE INDEX points_by_system ON points (system, place, sequence);

-- Copied from the vault's signed reports.
CREATE TABLE windows (
    vault            TEXT COLLATE "C" NOT NULL,
    id               BIGINT NOT NULL,
    purpose          TEXT NOT NULL,
    opened_at        BIGINT NOT NULL,
    closed_at        BIGINT,
    commanded_us     BIGINT,
    actuator_us      BIGINT,
    probe_us         BIGINT,
    bytes            BIGINT NOT NULL,
    closed_verified  BIGINT CHECK (closed_verified IN (0, 1)),
    outcome          TEXT NOT NULL,
    detail           TEXT NOT NULL,
    PRIMARY KEY (vault, id)
);

CREATE TABLE reports (
    vault        TEXT COLLATE "C" NOT NULL,
    number       BIGINT NOT NULL,
    made_at      BIGINT NOT NULL,
    received_at  BIGINT NOT NULL,
    verified     BIGINT NOT NULL CHECK (verified IN (0, 1)),
    body         TEXT NOT NULL,
    PRIMARY KEY (vault, number)
);

CREATE TABLE alarms (
    id            BIGINT PRIMARY KEY,
    scope         TEXT NOT NULL,
    dedup         TEXT NOT NULL,
    system        TEXT,
    code          TEXT NOT NULL,
    severity      TEXT NOT NULL CHECK (severity IN ('info', 'warning', 'alarm')),
    finding       TEXT NOT NULL,
    opened_at     BIGINT NOT NULL,
    seen_at       BIGINT NOT NULL,
    notified_at   BIGINT,
    taken_by      TEXT,
    taken_at      BIGINT,
    closed_at     BIGINT
);
CREATE UNIQUE INDEX alarms_one_open ON alarms (scope, dedup) WHERE closed_at IS NULL;
CREATE INDEX alarms_by_system ON alarms (system, id);

CREATE TABLE events (
    id      BIGINT PRIMARY KEY,
    at      BIGINT NOT NULL,
    actor   TEXT NOT NULL,
    kind    TEXT NOT NULL,
    system  TEXT,
    data    TEXT NOT NULL
);
CREATE INDEX events_by_system ON events (system, id);

-- Notices that are owed. A row leaves only when its target took it or a person gave it up.
CREATE TABLE outbox (
    id           BIGINT PRIMARY KEY,
    target       TEXT NOT NULL,
    dedup        TEXT NOT NULL UNIQUE,
    payload      TEXT NOT NULL,
    created_at   BIGINT NOT NULL,
    due_at       BIGINT NOT NULL,
    attempts     BIGINT NOT NULL,
    last_error   TEXT,
    owner        TEXT,
    epoch        BIGINT NOT NULL,
    lease_until  BIGINT,
    sent_at      BIGINT,
    dropped_at   BIGINT
);
CREATE INDEX outbox_owed ON outbox (due_at) WHERE sent_at IS NULL AND dropped_at IS NULL;

CREATE TABLE heartbeats (
    name    TEXT COLLATE "C" PRIMARY KEY,
    at      BIGINT NOT NULL,
    age     BIGINT NOT NULL,
    beats   BIGINT NOT NULL,
    detail  TEXT NOT NULL
);

-- One row: the highest wall time that was ever seen and the receiver's accumulated time.
CREATE TABLE time_state (
    id         BIGINT PRIMARY KEY CHECK (id = 1),
    highest    BIGINT NOT NULL,
    last_wall  BIGINT NOT NULL,
    last_boot  BIGINT NOT NULL,
    boot_id    TEXT NOT NULL,
    age_us     BIGINT NOT NULL
);

CREATE TABLE jumps (
    id            BIGINT PRIMARY KEY,
    seen_at       BIGINT NOT NULL,
    expected_at   BIGINT NOT NULL,
    offset_us     BIGINT NOT NULL,
    kind          TEXT NOT NULL CHECK (kind IN ('forward', 'backward', 'gap')),
    confirmed_by  TEXT,
    confirmed_at  BIGINT
);
