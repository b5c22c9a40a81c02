-- A new repository stays new until a person (or the configuration) knows it, in however many windows it is
-- offered.
alter table repositories add column confirmed integer not null default 0;
update repositories set confirmed = 1 where state <> 'new';
