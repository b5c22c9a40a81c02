-- What other backup products say about their jobs. It stood in `settings` before, where two servers could
-- write over each other; the program moves it when it opens the catalog.

CREATE TABLE results (
    system       TEXT NOT NULL REFERENCES systems (id),
    number       BIGINT NOT NULL,
    received_at  BIGINT NOT NULL,
    way          TEXT NOT NULL,
    result       TEXT NOT NULL,
    PRIMARY KEY (system, number)
);
