//! The control socket: one JSON document per line, asked by the command line, answered by the daemon.
//!
//! Owns the protocol, its bounds, the client and the listener; what an operation does is the [`Operations`] of the daemon.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use rustix::net;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::Semaphore;

use crate::cli::exit::{FAILED, LOCKED, NOTHING_THERE, USAGE, as_json, coded};
use crate::status::Report;

/// Directory of the socket and of the locks.
pub(crate) const RUN_DIR: &str = "/run/tapeworm";
/// Longest request in bytes.
const REQUEST_BYTES_MAX: u64 = 64 << 10;
/// Longest answer in bytes.
const ANSWER_BYTES_MAX: u64 = 16 << 20;
/// Clients served at a time; others wait.
const CLIENTS_MAX: u32 = 16;
/// How long a recorder may take to say how it is: nothing that it does for that waits for a disk.
pub(crate) const STATUS_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(3);
/// How long the end waits for the answers that are under way.
const LAST_ANSWERS_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(10);

/// What can be asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "lowercase", deny_unknown_fields)]
pub(crate) enum Request {
    /// State of every volume.
    Status {},
    /// Name this moment.
    Mark {
        /// The name.
        name: String,
        /// On which volume; `None` is all.
        path: Option<PathBuf>,
    },
    /// Bring everything up to now onto the medium.
    Flush {
        /// Answer only when that is done.
        wait: bool,
    },
    /// Write the whole state into the journal.
    Checkpoint {
        /// Of which volume; `None` is all.
        path: Option<PathBuf>,
        /// From the live file system.
        live: bool,
    },
    /// Bring everything up to now onto the medium, and end that: the journal goes on on the next one.
    Eject {
        /// Of which volume; `None` is all.
        path: Option<PathBuf>,
        /// The medium for copies at this place instead, of all volumes that are copied to it.
        copies: Option<PathBuf>,
    },
    /// Stop recording.
    Detach {
        /// Which volume; `None` is all.
        path: Option<PathBuf>,
    },
}

/// Answers requests; called on threads that may block.
pub(crate) trait Operations: Send + Sync + 'static {
    /// Does what is asked; the value is the answer.
    fn answer(&self, request: Request) -> Result<Value>;
}

/// The socket's path.
pub(crate) fn socket_path() -> PathBuf {
    Path::new(RUN_DIR).join("control.sock")
}

/// A connection to the running recorder.
pub(crate) struct Client {
    stream: UnixStream,
}

/// What to say where no recorder answers; programs of one that ended may go on.
fn nobody(left: &[String]) -> String {
    let nobody = "no recorder is running here";
    if left.is_empty() {
        return format!("{nobody}: start one with `recorder attach PATH --medium DIR`");
    }
    format!(
        "{nobody}, but the programs of one that ended go on (volume {}): start it again as before and it goes on from there, or take them \
         out with `recorder detach`",
        left.join(", ")
    )
}

/// Why there is no connection.
fn refused(path: &Path, error: std::io::Error) -> anyhow::Error {
    match error.kind() {
        std::io::ErrorKind::PermissionDenied => coded(
            FAILED,
            format!("connect to {}: {error}; try as root", path.display()),
        ),
        std::io::ErrorKind::WouldBlock => error.into(),
        _ => coded(NOTHING_THERE, nobody(&crate::capture::pinned_volumes())),
    }
}

/// A recorder runs and does not answer.
#[derive(Debug, thiserror::Error)]
#[error("the recorder does not answer on its control socket")]
pub(crate) struct Silent;

impl Client {
    /// Connects; exit code 10 where no recorder runs.
    pub(crate) fn connect() -> Result<Self> {
        Self::connect_to(&socket_path())
    }

    fn connect_to(path: &Path) -> Result<Self> {
        let stream = UnixStream::connect(path).map_err(|error| refused(path, error))?;
        Ok(Self { stream })
    }

    /// How the recorder is; it must say so at once.
    ///
    /// # Errors
    /// Exit code 10 where none runs; [`Silent`] where one does and does not answer.
    pub(crate) fn status() -> Result<Report> {
        Self::status_of(&socket_path())
    }

    fn status_of(path: &Path) -> Result<Report> {
        let silent = |error: anyhow::Error| match error
            .downcast_ref::<std::io::Error>()
            .map(std::io::Error::kind)
        {
            Some(std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => anyhow::Error::new(Silent),
            _ => error,
        };
        let client = Self::connect_within(path, STATUS_TIMEOUT).map_err(silent)?;
        let answer = client.ask(&Request::Status {}).map_err(silent)?;
        serde_json::from_value(answer).context("decode the recorder's answer")
    }

    /// A recorder that does not serve its socket lets no one in once enough wait there, and would be waited for for ever.
    fn connect_within(path: &Path, timeout: std::time::Duration) -> Result<Self> {
        let socket = net::socket_with(
            net::AddressFamily::UNIX,
            net::SocketType::STREAM,
            net::SocketFlags::CLOEXEC,
            None,
        )
        .context("make a socket")?;
        for which in [net::sockopt::Timeout::Send, net::sockopt::Timeout::Recv] {
            net::sockopt::set_socket_timeout(&socket, which, Some(timeout)).context("prepare a socket")?;
        }
        let address = net::SocketAddrUnix::new(path).context("name the control socket")?;
        net::connect(&socket, &address).map_err(|error| refused(path, error.into()))?;
        Ok(Self {
            stream: UnixStream::from(socket),
        })
    }

    /// Asks and waits for the answer, however long the operation takes.
    pub(crate) fn ask(mut self, request: &Request) -> Result<Value> {
        let mut line = serde_json::to_vec(request).context("encode request")?;
        line.push(b'\n');
        self.stream
            .write_all(&line)
            .context("send request to the recorder")?;
        let mut answer = String::new();
        BufReader::new(self.stream.take(ANSWER_BYTES_MAX))
            .read_line(&mut answer)
            .context("read the recorder's answer")?;
        if answer.is_empty() {
            return Err(coded(FAILED, "the recorder ended before it answered"));
        }
        let value: Value = serde_json::from_str(&answer).context("decode the recorder's answer")?;
        match value.get("error") {
            Some(error) if value.get("volumes").is_none() => {
                let code = error["code"]
                    .as_u64()
                    .and_then(|code| u8::try_from(code).ok())
                    .unwrap_or(FAILED);
                Err(coded(code, error["message"].as_str().unwrap_or("unknown error")))
            }
            _ => Ok(value),
        }
    }
}

/// Binds the socket at `path`, mode 0600; a socket that nobody answers is replaced.
///
/// # Errors
/// Exit code 11 where another recorder answers.
pub(crate) fn bind(path: &Path) -> Result<std::os::unix::net::UnixListener> {
    if UnixStream::connect(path).is_ok() {
        return Err(coded(
            LOCKED,
            "a recorder is already running here: see `recorder status`, stop it with `recorder detach`",
        ));
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("remove stale socket {}", path.display()));
        }
        _ => {}
    }
    let listener = std::os::unix::net::UnixListener::bind(path)
        .with_context(|| format!("make control socket {}", path.display()))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))
        .with_context(|| format!("protect control socket {}", path.display()))?;
    listener.set_nonblocking(true).context("prepare control socket")?;
    Ok(listener)
}

/// Serves clients until `stop` is sent or dropped, then until those that asked are answered, or [`LAST_ANSWERS_TIMEOUT`] is over.
pub(crate) async fn serve(
    listener: tokio::net::UnixListener,
    operations: Arc<dyn Operations>,
    stop: tokio::sync::oneshot::Receiver<()>,
) {
    let places = Arc::new(Semaphore::new(CLIENTS_MAX as usize));
    tokio::select! {
        () = accept(listener, operations, &places) => {}
        _ = stop => {}
    }
    // Whoever detached the last volume hears of it, however busy the host is.
    let _late = tokio::time::timeout(LAST_ANSWERS_TIMEOUT, places.acquire_many(CLIENTS_MAX)).await;
}

async fn accept(
    listener: tokio::net::UnixListener,
    operations: Arc<dyn Operations>,
    places: &Arc<Semaphore>,
) {
    loop {
        let Ok(place) = Arc::clone(places).acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, _)) => {
                let operations = Arc::clone(&operations);
                tokio::spawn(async move {
                    if let Err(error) = serve_one(stream, operations).await {
                        tracing::debug!("control client: {error:#}");
                    }
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!("accept control client: {error}");
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
        }
    }
}

async fn serve_one(mut stream: tokio::net::UnixStream, operations: Arc<dyn Operations>) -> Result<()> {
    let (reading, mut writing) = stream.split();
    let mut line = Vec::new();
    tokio::io::BufReader::new(reading.take(REQUEST_BYTES_MAX))
        .read_until(b'\n', &mut line)
        .await
        .context("read request")?;
    let answer = match decode(&line) {
        Ok(request) => tokio::task::spawn_blocking(move || operations.answer(request))
            .await
            .unwrap_or_else(|error| Err(anyhow::anyhow!("answer request: {error}"))),
        Err(error) => Err(error),
    };
    let mut bytes = answer
        .unwrap_or_else(|error| as_json(&error))
        .to_string()
        .into_bytes();
    bytes.push(b'\n');
    writing.write_all(&bytes).await.context("send answer")
}

fn decode(line: &[u8]) -> Result<Request> {
    if line.last() != Some(&b'\n') {
        return Err(coded(
            USAGE,
            format!("a request is one line of at most {REQUEST_BYTES_MAX} bytes"),
        ));
    }
    serde_json::from_slice(line).map_err(|error| coded(USAGE, format!("decode request: {error}")))
}

/// The answer to an operation on several volumes.
pub(crate) fn volumes_answer(volumes: Vec<Value>) -> Value {
    json!({ "volumes": volumes })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::exit::code_of;

    struct Echo;
    impl Operations for Echo {
        fn answer(&self, request: Request) -> Result<Value> {
            match request {
                Request::Status {} => Ok(volumes_answer(vec![json!({"path": "/x"})])),
                Request::Mark { name, .. } => Err(coded(LOCKED, format!("not {name}"))),
                _ => anyhow::bail!("no"),
            }
        }
    }

    fn with_server(test: impl FnOnce(&Path) + Send + 'static) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("c.sock");
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let listener = tokio::net::UnixListener::from_std(bind(&path).unwrap()).unwrap();
            let path = path.clone();
            let (_stop, stopped) = tokio::sync::oneshot::channel();
            tokio::select! {
                () = serve(listener, Arc::new(Echo), stopped) => {}
                done = tokio::task::spawn_blocking(move || test(&path)) => done.unwrap(),
            }
        });
    }

    #[test]
    fn ask_and_answer() {
        with_server(|path| {
            let value = Client::connect_to(path)
                .unwrap()
                .ask(&Request::Status {})
                .unwrap();
            assert_eq!(value["volumes"][0]["path"], "/x");
            let error = Client::connect_to(path)
                .unwrap()
                .ask(&Request::Mark {
                    name: "m".to_owned(),
                    path: None,
                })
                .unwrap_err();
            assert_eq!((code_of(&error), error.to_string()), (LOCKED, "not m".to_owned()));
            assert_eq!(
                code_of(&bind(path).unwrap_err()),
                LOCKED,
                "a second recorder is refused"
            );
        });
    }

    struct Slow;
    impl Operations for Slow {
        fn answer(&self, _request: Request) -> Result<Value> {
            std::thread::sleep(std::time::Duration::from_millis(500));
            Ok(volumes_answer(vec![]))
        }
    }

    #[test]
    fn who_asked_before_the_end_is_answered() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("c.sock");
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let answer = runtime.block_on(async {
            let listener = tokio::net::UnixListener::from_std(bind(&path).unwrap()).unwrap();
            let (stop, stopped) = tokio::sync::oneshot::channel();
            let server = tokio::spawn(serve(listener, Arc::new(Slow), stopped));
            let path = path.clone();
            let client = tokio::task::spawn_blocking(move || {
                Client::connect_to(&path).unwrap().ask(&Request::Status {})
            });
            tokio::time::sleep(std::time::Duration::from_millis(200)).await;
            drop(stop);
            server.await.unwrap();
            client.await.unwrap()
        });
        assert!(answer.is_ok(), "{answer:?}");
    }

    #[test]
    fn a_recorder_that_does_not_answer_is_not_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("c.sock");
        let _unserved = bind(&path).unwrap();
        let timeout = std::time::Duration::from_millis(100);
        let ask = || {
            Client::connect_within(&path, timeout)
                .and_then(|client| client.ask(&Request::Status {}))
                .unwrap_err()
        };
        let kind = |error: &anyhow::Error| error.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
        assert_eq!(kind(&ask()), Some(std::io::ErrorKind::WouldBlock), "{:#}", ask());
    }

    #[test]
    fn garbage_is_answered_with_a_usage_error() {
        with_server(|path| {
            for text in [
                &b"{\"op\":\"status\",\"x\":1}\n"[..],
                b"{\"op\":\"explode\"}\n",
                b"\xff\n",
            ] {
                let mut stream = UnixStream::connect(path).unwrap();
                stream.write_all(text).unwrap();
                let mut answer = String::new();
                BufReader::new(stream).read_line(&mut answer).unwrap();
                let value: Value = serde_json::from_str(&answer).unwrap();
                assert_eq!(value["error"]["code"], USAGE, "{answer}");
            }
        });
    }

    #[test]
    fn without_a_recorder_the_code_is_10() {
        let error = Client::connect_to(Path::new("/nonexistent/c.sock"))
            .err()
            .unwrap();
        assert_eq!(code_of(&error), NOTHING_THERE);
    }
}
