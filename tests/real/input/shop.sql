PRAGMA journal_mode = DELETE;
CREATE TABLE item (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, price REAL);
CREATE TABLE sale (item INTEGER REFERENCES item(id), day INTEGER, count INTEGER);
CREATE INDEX sale_by_day ON sale(day, item);
BEGIN;
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 500)
  INSERT INTO item SELECT i, printf('item %04d', i), (i * 37 % 1000) / 10.0 FROM n;
WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 20000)
  INSERT INTO sale SELECT 1 + i * 7919 % 500, i % 365, 1 + i % 9 FROM n;
COMMIT;
SELECT count(*), sum(count), round(sum(count * price), 2) FROM sale JOIN item ON item = id;
SELECT name, sum(count) AS total FROM sale JOIN item ON item = id GROUP BY id ORDER BY total DESC, name LIMIT 5;
SELECT day, rank() OVER (ORDER BY sum(count) DESC, day) AS place FROM sale GROUP BY day ORDER BY place LIMIT 3;
DELETE FROM sale WHERE day > 100;
VACUUM;
SELECT count(*), hex(substr(group_concat(day), 1, 12)) FROM sale;
PRAGMA integrity_check;
