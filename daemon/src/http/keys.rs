//! A listener's token and certificate: read when it is bound, and again when somebody says so.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use tokio_rustls::TlsAcceptor;

use super::tls::{self, Speaker};
use super::token::Token;
use super::{HttpError, Listener, TlsFiles};

/// The token and the certificate that a listener works with; clones share them.
#[derive(Clone)]
pub struct Keys(Arc<Inner>);

struct Inner {
    token: Option<(PathBuf, RwLock<Token>)>,
    tls: Option<(TlsFiles, RwLock<Speaker>)>,
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { token, tls } = &*self.0;
        f.debug_struct("Keys")
            .field("token", &token.as_ref().map(|(file, _)| file))
            .field("tls", &tls.as_ref().map(|(files, _)| files))
            .finish()
    }
}

impl Keys {
    /// Reads the files that `listener` names; a missing token file is made.
    pub(super) fn load(listener: &Listener) -> Result<Self, HttpError> {
        let token = match &listener.token {
            Some(file) => Some((file.clone(), RwLock::new(Token::load(file)?))),
            None => None,
        };
        let tls = match &listener.tls {
            Some(files) => Some((files.clone(), RwLock::new(tls::load(files)?))),
            None => None,
        };
        Ok(Self(Arc::new(Inner { token, tls })))
    }

    /// Reads the files again, a token file that is gone is made anew, and says what has changed.
    /// Connections that are open stay.
    ///
    /// # Errors
    /// When one of them cannot be used; then nothing changes.
    pub fn reload(&self) -> Result<Vec<&'static str>, HttpError> {
        let Inner { token, tls } = &*self.0;
        let fresh_token = token.as_ref().map(|(file, _)| Token::load(file)).transpose()?;
        let fresh_tls = tls.as_ref().map(|(files, _)| tls::load(files)).transpose()?;
        let mut changed = Vec::new();
        if let (Some((_, held)), Some(fresh)) = (token, fresh_token) {
            let mut held = write(held);
            if *held != fresh {
                changed.push("HTTP token");
                *held = fresh;
            }
        }
        if let (Some((_, held)), Some(fresh)) = (tls, fresh_tls) {
            let mut held = write(held);
            if held.chain != fresh.chain {
                changed.push("HTTP certificate");
            }
            // The key may have changed alone.
            *held = fresh;
        }
        Ok(changed)
    }

    /// Whether a token must be shown and `shown` is none or another.
    pub(super) fn refuses(&self, shown: Option<&str>) -> bool {
        let wanted = self.0.token.as_ref();
        wanted.is_some_and(|(_, held)| !shown.is_some_and(|shown| read(held).is(shown)))
    }

    /// What speaks TLS, where the listener does.
    pub(super) fn acceptor(&self) -> Option<TlsAcceptor> {
        self.0.tls.as_ref().map(|(_, held)| read(held).acceptor.clone())
    }
}

// Nothing is left half done under these locks, so a poisoned one holds what it should.

fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}
