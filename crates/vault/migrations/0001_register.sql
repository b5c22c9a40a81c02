-- The vault's own register. Times: `_s` is the vault's accumulated time in seconds (see `time` in meta),
-- which no wall clock can move; RFC 3339 texts are for people.

create table meta (
    key   text primary key,
    value text not null
) strict;

create table repositories (
    name          text primary key,
    state         text not null check (state in ('new', 'known', 'vanished')),
    first_seen    text not null,
    listed_s      integer,
    -- Files that the primary has and the vault does not, and since when that has been so.
    backlog_files integer not null default 0,
    backlog_bytes integer not null default 0,
    backlog_since_s integer
) strict;

-- What the primary's `config` and `keys/*` were at enrolment. `config` has the SHA-256 of its bytes as id.
create table pins (
    repository text not null references repositories (name),
    kind       text not null check (kind in ('config', 'keys')),
    id         blob not null,
    primary key (repository, kind, id)
) strict;

create table files (
    repository text not null references repositories (name),
    kind       text not null check (kind in ('data', 'index', 'snapshots')),
    id         blob not null,
    size       integer not null,
    -- dropped: by our own retention; quarantined: forged. Neither is fetched again.
    state      text not null check (state in ('fetched', 'verified', 'dropped', 'quarantined')),
    window     integer,
    fetched_s  integer not null,
    why        text,
    primary key (repository, kind, id)
) strict, without rowid;
create index files_by_state on files (repository, kind, state);

create table points (
    sequence   integer primary key,
    repository text not null references repositories (name),
    snapshot   blob not null,
    received   text not null,
    received_s integer not null,
    state      text not null check (state in ('incomplete', 'complete', 'removed')),
    partial    integer not null default 0,
    verdict    text not null default 'unknown',
    tree       blob not null,
    taken      text not null,
    host       text not null,
    why        text,
    unique (repository, snapshot)
) strict;

create table windows (
    window   integer primary key,
    purpose  text not null,
    opened   text not null,
    opened_s integer not null,
    seconds  real,
    bytes    integer not null default 0,
    verified integer,
    record   text not null default '{}'
) strict;

create table alarms (
    key     text primary key,
    finding text not null,
    since   text not null,
    cleared text
) strict;

create table removals (
    at_s       integer not null,
    repository text not null,
    sequence   integer not null
) strict;
