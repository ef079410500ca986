-- Run once, when the database is made: conntracct owns it, grafana may only read. Passwords come
-- from the files that the variables of the environment name.
\set conntracct `cat "$CONNTRACCT_PASSWORD_FILE"`
\set grafana `cat "$GRAFANA_PASSWORD_FILE"`

CREATE ROLE conntracct LOGIN PASSWORD :'conntracct';
ALTER DATABASE :"DBNAME" OWNER TO conntracct;
ALTER SCHEMA public OWNER TO conntracct;

CREATE ROLE grafana LOGIN PASSWORD :'grafana' IN ROLE pg_read_all_data;
ALTER ROLE grafana SET default_transaction_read_only = on;
ALTER ROLE grafana SET statement_timeout = '60s';
-- Compiling a dashboard's query takes longer than it saves.
ALTER ROLE grafana SET jit = off;
