//! A proxy in front of a server's socket that does something to the connection at COMMIT.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Notify;

/// What happens to the next COMMIT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum At {
    /// It never reaches the server: both connections are cut.
    Before,
    /// It reaches the server, its answer does not come back.
    After,
    /// The client's connection is cut; COMMIT reaches the server when [`Proxy::let_go`] says so.
    Late,
}

/// A proxy; its clients find it as they would find the server.
pub(crate) struct Proxy {
    folder: tempfile::TempDir,
    next: Arc<Mutex<Option<At>>>,
    go: Arc<Notify>,
}

impl Proxy {
    /// Begins to listen. Until told otherwise it passes everything on.
    pub(crate) fn before(server: &testdb::Server) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join(".s.PGSQL.5432")).unwrap();
        let proxy = Self { folder, next: Arc::default(), go: Arc::default() };
        let (next, go, socket) = (Arc::clone(&proxy.next), Arc::clone(&proxy.go), server.socket());
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (next, go) = (Arc::clone(&next), Arc::clone(&go));
                tokio::spawn(serve(client, socket.clone(), next, go));
            }
        });
        proxy
    }

    /// The URL for clients.
    pub(crate) fn url(&self) -> String {
        let folder: &Path = self.folder.path();
        format!("postgres://conntracct@localhost:5432/flows?host={}", folder.display())
    }

    /// What is to happen to the next COMMIT.
    pub(crate) fn arm(&self, at: At) {
        *self.next.lock().unwrap() = Some(at);
    }

    /// Whether the last COMMIT it was armed for has come.
    pub(crate) fn has_fired(&self) -> bool {
        self.next.lock().unwrap().is_none()
    }

    /// Passes a late COMMIT on.
    pub(crate) fn let_go(&self) {
        self.go.notify_one();
    }
}

/// A simple query as the protocol has it: type, length, text with its end.
const COMMIT: &[u8] = b"Q\0\0\0\x0bCOMMIT\0";

async fn serve(client: UnixStream, socket: PathBuf, next: Arc<Mutex<Option<At>>>, go: Arc<Notify>) {
    let Ok(server) = UnixStream::connect(socket).await else { return };
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let back = tokio::spawn(async move {
        let _ = tokio::io::copy(&mut from_server, &mut to_client).await;
        from_server
    });
    let mut buffer = vec![0; 64 << 10];
    while let Ok(length @ 1..) = from_client.read(&mut buffer).await {
        let sent = &buffer[..length];
        let armed = if sent.ends_with(COMMIT) { next.lock().unwrap().take() } else { None };
        match armed {
            None => {
                if to_server.write_all(sent).await.is_err() {
                    return;
                }
            }
            Some(At::Before) => {
                back.abort();
                return;
            }
            Some(At::After) => {
                // The way back is closed first, so that the answer stays here.
                back.abort();
                let _ = back.await;
                to_server.write_all(sent).await.unwrap();
                // The server ends its side once it has read ours to the end.
                let _ = to_server.shutdown().await;
                return;
            }
            Some(At::Late) => {
                back.abort();
                drop(from_client);
                go.notified().await;
                let _ = to_server.write_all(sent).await;
                let _ = to_server.shutdown().await;
                return;
            }
        }
    }
    let _ = to_server.shutdown().await;
}
