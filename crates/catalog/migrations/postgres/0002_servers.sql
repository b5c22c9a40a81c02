-- Several servers may share a catalog: each boot has its own clocks, and what only one of them may do has a
-- lease. A run keeps what it planned and did.

CREATE TABLE clocks (
    boot_id  TEXT COLLATE "C" PRIMARY KEY,
    wall     BIGINT NOT NULL,
    boot     BIGINT NOT NULL,
    age      BIGINT NOT NULL
);
INSERT INTO clocks (boot_id, wall, boot, age) SELECT boot_id, last_wall, last_boot, age_us FROM time_state;

CREATE TABLE leases (
    name         TEXT COLLATE "C" PRIMARY KEY,
    owner        TEXT NOT NULL,
    epoch        BIGINT NOT NULL,
    lease_until  BIGINT NOT NULL
);

ALTER TABLE runs ADD COLUMN detail TEXT NOT NULL DEFAULT '{}';
CREATE UNIQUE INDEX runs_one_per_system ON runs (system) WHERE state = 'running';
