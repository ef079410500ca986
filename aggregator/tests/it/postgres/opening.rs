//! Opening a database: who may, who may not, and what they are told.

use aggregator::store::postgres::{Layout, PostgresStore, Secret, pending};
use aggregator::store::{CommitError, OpenError, Store};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use testdb::{DATABASE, ROLE, Server, Setup};

use super::{address, open};
use crate::rows::{EPOCH, TOKEN, at, counters, first_set, name, next_set};

async fn refused(url: &str) -> OpenError {
    PostgresStore::open(&address(url)).await.map(|store| store.layout()).unwrap_err()
}

#[tokio::test]
async fn a_newer_schema_is_refused_and_left_alone() {
    let server = Server::start().unwrap();
    let before = pending(&address(&server.url())).await.unwrap();
    assert_eq!(before.found, None);
    assert!(before.layout.starts_with("native day partitions ("), "{}", before.layout);
    open(&server.url()).await.close().await;
    assert_eq!(pending(&address(&server.url())).await.unwrap().found, Some(1));
    let future = "INSERT INTO _sqlx_migrations (version, description, success, checksum, \
                  execution_time) VALUES (999, 'from the future', true, '', 0)";
    server.sql(DATABASE, future).unwrap();
    let refused = refused(&server.url()).await;
    assert!(matches!(refused, OpenError::Newer { found: 999, .. }), "{refused:?}");
}

#[tokio::test]
async fn databases_of_others_are_refused() {
    let server = Server::start().unwrap();
    server
        .sql(
            DATABASE,
            "CREATE TABLE _sqlx_migrations (version int8, success bool); \
             INSERT INTO _sqlx_migrations VALUES (7, true); GRANT ALL ON _sqlx_migrations TO PUBLIC",
        )
        .unwrap();
    let text = refused(&server.url()).await.to_string();
    assert!(text.contains("tables of another program"), "{text}");

    let text = refused(&server.url_of(ROLE, "nowhere")).await.to_string();
    assert!(text.contains("does not exist; create it") && text.contains("3D000"), "{text}");
}

#[tokio::test]
async fn a_role_needs_no_more_than_create_on_its_schema() {
    let server = Server::start().unwrap();
    server.sql(DATABASE, "CREATE ROLE plain LOGIN").unwrap();
    let url = server.url_of("plain", DATABASE);
    let text = refused(&url).await.to_string();
    let cure = "GRANT USAGE, CREATE ON SCHEMA \"public\" TO \"plain\"";
    assert!(text.contains("the role plain may not make tables") && text.contains(cure), "{text}");

    server.sql(DATABASE, cure).unwrap();
    let store = open(&url).await;
    store.commit(TOKEN, &first_set(1..=3)).await.unwrap();
    let may = "SELECT has_database_privilege('plain', 'flows', 'CREATE')";
    assert_eq!(server.sql(DATABASE, may).unwrap(), "f");
}

#[tokio::test]
async fn a_role_that_does_not_own_the_tables_is_told_so() {
    let server = Server::start().unwrap();
    open(&server.url()).await.close().await;
    server
        .sql(
            DATABASE,
            "CREATE ROLE guest LOGIN; GRANT ALL ON ALL TABLES IN SCHEMA public TO guest; \
             GRANT CREATE ON SCHEMA public TO guest",
        )
        .unwrap();
    // The schema is there, so nothing has to be made to open it.
    let store = PostgresStore::open(&address(&server.url_of("guest", DATABASE))).await.unwrap();
    let later = at(90 * 86_400);
    let text = store.take_writer(TOKEN, later).await.unwrap_err().to_string();
    assert!(text.contains("a privilege is missing") && text.contains("must be owner"), "{text}");
}

#[tokio::test]
async fn one_connection_is_enough() {
    // Three are kept for superusers.
    let server = Server::with(Setup::default().set("max_connections", "4")).unwrap();
    let store = open(&server.url()).await;
    store.commit(TOKEN, &first_set(1..=20)).await.unwrap();
    store.commit(TOKEN, &next_set(2, &[1, 2], counters(3))).await.unwrap();
    assert_eq!(store.load(at(0)).await.unwrap().observers.len(), 20);
    assert_eq!(store.progress(&name(), EPOCH).await.unwrap().unwrap().committed, flow::Seq(2));
    let text = refused(&server.url()).await.to_string();
    assert!(text.contains("has no connection left"), "{text}");
}

#[tokio::test]
async fn a_password_is_asked_for_and_never_repeated() {
    let access = "local all postgres trust\nlocal all all scram-sha-256\n";
    let setup = Setup { access: Some(access.to_owned()), ..Setup::default() };
    let server = Server::with(setup).unwrap();
    server.sql(DATABASE, &format!("ALTER ROLE {ROLE} PASSWORD 'hunter2'")).unwrap();
    let plain = address(&server.url());
    let right = plain.clone().with_password(Secret::new("hunter2"));
    PostgresStore::open(&right).await.unwrap().close().await;
    let wrong = plain.with_password(Secret::new("hunter3"));
    let error = PostgresStore::open(&wrong).await.map(|store| store.layout()).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("check user and password") && !text.contains("hunter3"), "{text}");
    assert!(!format!("{error:?} {wrong:?}").contains("hunter3"));
}

/// A CA, and a server's certificate of it for `name`: PEM texts of the CA, certificate and key.
fn certificates(name: &str) -> (String, String, String) {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(vec![name.to_owned()]).unwrap();
    let leaf = leaf.signed_by(&key, &ca).unwrap();
    (ca.pem(), leaf.pem(), key.serialize_pem())
}

#[tokio::test]
async fn tls_is_verified_against_a_private_ca() {
    let (ca, certificate, key) = certificates("localhost");
    let access = "local all all trust\nhostssl all all 127.0.0.1/32 trust\n";
    let files = vec![("server.crt".to_owned(), certificate), ("server.key".to_owned(), key)];
    let setup = Setup { tcp: true, access: Some(access.to_owned()), files, ..Setup::default() };
    let server = Server::with(setup.set("ssl", "on")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, pem: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, pem).unwrap();
        path.display().to_string()
    };
    let (ours, other) = (file("ca.pem", &ca), file("other.pem", &certificates("localhost").0));
    let url = |host: &str, rest: &str| {
        let port = server.port();
        format!("postgres://{ROLE}@{host}:{port}/{DATABASE}?{rest}")
    };

    let store = open(&url("localhost", &format!("sslmode=verify-full&sslrootcert={ours}"))).await;
    store.commit(TOKEN, &first_set(1..=3)).await.unwrap();
    let encrypted = "SELECT s.ssl FROM pg_stat_ssl s JOIN pg_stat_activity a USING (pid) \
                     WHERE a.application_name = 'conntracct-aggregator'";
    assert_eq!(server.sql(DATABASE, encrypted).unwrap(), "t");

    for (host, rest) in [
        ("localhost", format!("sslmode=verify-full&sslrootcert={other}")),
        ("localhost", "sslmode=verify-full".to_owned()),
        // The certificate's name is another.
        ("127.0.0.1", format!("sslmode=verify-full&sslrootcert={ours}")),
    ] {
        let text = refused(&url(host, &rest)).await.to_string();
        assert!(text.contains("certificate"), "{host} {rest}: {text}");
    }
    let text = refused(&url("localhost", "sslmode=disable")).await.to_string();
    assert!(text.contains("no encryption"), "{text}");
}

#[tokio::test]
async fn durability_is_not_traded_for_speed() {
    let server = Server::with(Setup::default().set("synchronous_commit", "off")).unwrap();
    server
        .sql(
            DATABASE,
            "CREATE TABLE seen (setting text); GRANT ALL ON seen TO PUBLIC; \
             CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
             INSERT INTO seen VALUES (current_setting('synchronous_commit')); RETURN NULL; END $$",
        )
        .unwrap();
    let store = open(&server.url()).await;
    let trigger = "CREATE TRIGGER note AFTER UPDATE ON writer EXECUTE FUNCTION note()";
    server.sql(DATABASE, trigger).unwrap();
    store.commit(TOKEN, &first_set(1..=3)).await.unwrap();
    assert_eq!(server.sql(DATABASE, "SELECT setting FROM seen").unwrap(), "on");
}

#[tokio::test]
async fn a_read_only_server_is_waited_for() {
    let mut server = Server::start().unwrap();
    let store = open(&server.url()).await;
    store.commit(TOKEN, &first_set(1..=1)).await.unwrap();
    let settings = server.data().join("postgresql.auto.conf");
    std::fs::write(&settings, "default_transaction_read_only = on\n").unwrap();
    server.shut_down().unwrap();
    server.start_again().unwrap();
    let set = next_set(2, &[1], counters(3));
    // The old connection is gone; the new one is told.
    let gone = store.commit(TOKEN, &set).await;
    assert!(matches!(gone, Err(CommitError::Unavailable(_))), "{gone:?}");
    let Err(CommitError::Unavailable(text)) = store.commit(TOKEN, &set).await else { panic!() };
    assert!(text.starts_with("the database is read-only (a standby, or set so)"), "{text}");
    assert!(!text.contains('\n'), "{text}");
    std::fs::write(&settings, "").unwrap();
    server.shut_down().unwrap();
    server.start_again().unwrap();
    store.commit(TOKEN, &set).await.unwrap();
}

#[tokio::test]
async fn a_hot_standby_is_no_store() {
    let mut server = Server::start().unwrap();
    open(&server.url()).await.close().await;
    server.shut_down().unwrap();
    std::fs::write(server.data().join("standby.signal"), "").unwrap();
    server.start_again().unwrap();
    let store = PostgresStore::open(&address(&server.url())).await.unwrap();
    let text = store.take_writer(TOKEN, at(0)).await.unwrap_err().to_string();
    assert!(text.contains("read-only (a standby, or set so); give the primary"), "{text}");
}

/// Runs against a server that has the extension in the database of this URL, which is emptied.
#[tokio::test]
async fn timescaledb_makes_the_chunks_where_it_is() {
    let Some(url) = std::env::var_os("CONNTRACCT_TEST_TIMESCALE_URL") else {
        println!("not run: CONNTRACCT_TEST_TIMESCALE_URL names no server with TimescaleDB");
        return;
    };
    let url = url.into_string().unwrap();
    let plan = pending(&address(&url)).await.unwrap();
    if plan.found.is_none() {
        assert!(plan.layout.starts_with("a TimescaleDB hypertable"), "{}", plan.layout);
    }
    let store = open(&url).await;
    assert_eq!(store.layout(), Layout::Hypertable);
    if store.progress(&name(), EPOCH).await.unwrap().is_none() {
        store.commit(TOKEN, &first_set(1..=1_000)).await.unwrap();
    }
    let sums = store.counted(&[aggregator::store::row::EntryNo(1)], at(0)).await.unwrap();
    assert_eq!(sums[0].1, counters(10));
}
