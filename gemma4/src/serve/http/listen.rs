//! Sockets and connections.
//!
//! hyper directly rather than `axum::serve`, which has no time limit for half-sent requests and no limit of
//! connections.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::sync::watch;

/// Connections at once. Each may wait for its turn, so there are more than requests that run.
const CONNECTIONS: usize = 1024;
/// Time for the head of a request. It also ends connections on which nothing comes.
const HEAD: Duration = Duration::from_secs(30);
/// Bytes of a request's head.
const HEAD_BYTES: usize = 64 << 10;
/// Time that connections have to end once the engine has nothing more to say.
const GRACE: Duration = Duration::from_secs(5);

/// Where a request came from, for logs.
#[derive(Clone, Debug)]
pub(crate) struct Peer(pub(crate) String);

/// A socket that waits for connections.
#[derive(Debug)]
pub(crate) enum Socket {
    /// An address and a port.
    Tcp(TcpListener),
    /// A file.
    #[cfg(unix)]
    Unix(tokio::net::UnixListener, UnixFile),
}

/// The file of a Unix socket, removed when the server ends.
#[derive(Debug)]
pub(crate) struct UnixFile(PathBuf);

impl Drop for UnixFile {
    fn drop(&mut self) {
        // Somebody else may have removed it.
        let _ = std::fs::remove_file(&self.0);
    }
}

impl Socket {
    /// Listens on an address.
    pub(crate) async fn tcp(address: SocketAddr) -> io::Result<Self> {
        Ok(Self::Tcp(TcpListener::bind(address).await?))
    }

    /// Listens on a file, which only this user may use. A file that a server left behind is replaced, one that a
    /// server listens on is not.
    #[cfg(unix)]
    pub(crate) async fn unix(path: &Path) -> io::Result<Self> {
        use std::os::unix::fs::{FileTypeExt, PermissionsExt};
        if std::fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket()) {
            if tokio::net::UnixStream::connect(path).await.is_ok() {
                return Err(io::Error::new(io::ErrorKind::AddrInUse, "another server listens on it"));
            }
            std::fs::remove_file(path)?;
        }
        let listener = tokio::net::UnixListener::bind(path)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
        Ok(Self::Unix(listener, UnixFile(path.to_owned())))
    }

    /// Where it listens, as a browser or `curl` takes it.
    pub(crate) fn name(&self) -> String {
        match self {
            Self::Tcp(listener) => {
                listener.local_addr().map_or_else(|_| "?".to_owned(), |at| format!("http://{at}"))
            }
            #[cfg(unix)]
            Self::Unix(_, file) => format!("unix:{}", file.0.display()),
        }
    }

    async fn accept(&self) -> io::Result<(Connection, Peer)> {
        match self {
            Self::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                // Tokens are small and late ones are noticed.
                stream.set_nodelay(true)?;
                Ok((Connection::Tcp(stream), Peer(peer.to_string())))
            }
            #[cfg(unix)]
            Self::Unix(listener, _) => {
                let (stream, _) = listener.accept().await?;
                Ok((Connection::Unix(stream), Peer("unix".to_owned())))
            }
        }
    }
}

enum Connection {
    Tcp(tokio::net::TcpStream),
    #[cfg(unix)]
    Unix(tokio::net::UnixStream),
}

/// Answers connections until `end` says true, and those that are open then until they have ended or `GRACE` is over.
pub(crate) async fn serve(
    socket: Socket,
    router: Router,
    mut end: watch::Receiver<bool>,
    drained: watch::Receiver<bool>,
) {
    let graceful = GracefulShutdown::new();
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let accepted = tokio::select! {
            accepted = accept(&socket, &places) => accepted,
            _ = end.wait_for(|end| *end) => break,
        };
        let Some((place, connection, peer)) = accepted else { continue };
        match connection {
            Connection::Tcp(stream) => spawn(stream, peer, &router, &graceful, place),
            #[cfg(unix)]
            Connection::Unix(stream) => spawn(stream, peer, &router, &graceful, place),
        }
    }
    drop(socket);
    let mut drained = drained;
    let late = async {
        // A sender that is gone has nothing more to say either.
        let _ = drained.wait_for(|drained| *drained).await;
        tokio::time::sleep(GRACE).await;
    };
    tokio::select! {
        () = graceful.shutdown() => {}
        () = late => {}
    }
}

async fn accept(
    socket: &Socket,
    places: &Arc<Semaphore>,
) -> Option<(tokio::sync::OwnedSemaphorePermit, Connection, Peer)> {
    let place = Arc::clone(places).acquire_owned().await.ok()?;
    if let Ok((connection, peer)) = socket.accept().await {
        return Some((place, connection, peer));
    }
    // Out of file descriptors, or a client that left at once: the next one may be luckier.
    tokio::time::sleep(Duration::from_millis(20)).await;
    None
}

fn spawn<S>(
    stream: S,
    peer: Peer,
    router: &Router,
    graceful: &GracefulShutdown,
    place: tokio::sync::OwnedSemaphorePermit,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let router = router.clone();
    let service = hyper::service::service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(peer.clone());
        let service = TowerToHyperService::new(router.clone());
        async move { hyper::service::Service::call(&service, request).await }
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD).max_buf_size(HEAD_BYTES);
    let connection = graceful.watch(builder.serve_connection(TokioIo::new(stream), service));
    tokio::spawn(async move {
        // What a client breaks off is its own business.
        let _ = connection.await;
        drop(place);
    });
}
