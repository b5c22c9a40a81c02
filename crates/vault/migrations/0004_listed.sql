-- Points are ordered by the window whose listing first named them. A window that is cut off may bring the newest
-- snapshot and leave older ones for the next; they must not become the newest by that.
create table listed (
    repository text not null,
    snapshot   blob not null,
    window     integer not null,
    primary key (repository, snapshot)
) strict, without rowid;
alter table points add column listed integer not null default 0;
update points set listed = coalesce((select window from files where files.repository = points.repository
    and files.kind = 'snapshots' and files.id = points.snapshot), 0);
