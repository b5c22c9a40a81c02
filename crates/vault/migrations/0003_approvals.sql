-- Who may approve, what was asked, and who said yes. `_s` is the vault's accumulated time.

create table officers (
    name       text primary key,
    -- Ed25519 public key, hex; none for somebody who has paper only.
    key        text,
    enrolled_s integer not null,
    retired_s  integer
) strict;

-- One-time codes of the paper sheets: only slow hashes of them. A new sheet ends the one before.
create table codes (
    officer text not null references officers (name),
    sheet   integer not null,
    number  integer not null,
    salt    blob not null,
    hash    blob not null,
    used_s  integer,
    -- The request that it was used for.
    request integer,
    primary key (officer, sheet, number)
) strict;

create table requests (
    request   integer primary key,
    proposal  text not null,
    hash      blob not null unique,
    created_s integer not null,
    created   text not null,
    state     text not null check (state in ('open', 'used', 'withdrawn'))
) strict;

create table approvals (
    request   integer not null references requests (request),
    officer   text not null references officers (name),
    -- A signature in hex, or none for a paper code (see `codes`).
    signature text,
    at_s      integer not null,
    primary key (request, officer)
) strict;
