//! The running recorder: volumes from attach to detach, signals, the control socket, supervision.
//!
//! Owns the life of the process. What happens on one volume is `volume.rs`; what must be true before anything is touched is
//! `checks.rs`.

mod barriers;
mod canary;
pub(crate) mod checkpoints;
mod checks;
mod copies;
mod event;
mod lag;
pub(crate) mod medium;
mod moments;
mod mounted;
mod places;
mod resume;
mod shelf;
mod sink;
mod start;
mod volume;
mod watch;
mod watched;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use sd_notify::NotifyState;
use serde_json::Value;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::cli::exit::{NOTHING_THERE, coded};
use crate::cli::{print_line, say_holes};
use crate::config::VolumeConfig;
use crate::control::{self, Operations, Request};
use crate::pulse;
use crate::status::Report;
pub(crate) use checks::replayer;
use event::Event;
pub(crate) use resume::take_out;
pub(crate) use start::Base;
use volume::Session;
pub(crate) use watch::state_path;
use watch::{Awake, Watch, notify};

/// Time between two looks at the pipelines.
const SUPERVISION_INTERVAL: Duration = Duration::from_millis(200);

/// Looks at the pipelines between two looks at the kernel's miss counters.
const LOOKS_PER_MISS_CHECK: u32 = 25;

/// How the recorder was started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// In the foreground, for the volumes of the command line.
    Attach,
    /// As a service.
    Service,
}

/// The volumes being recorded.
struct Recorder {
    sessions: Mutex<Vec<Arc<Session>>>,
    watch: Watch,
}

/// Records until told to stop. Returns the exit code.
pub(crate) fn run(configs: Vec<VolumeConfig>, form: Form, json: bool) -> Result<u8> {
    checks::run_directory()?;
    let prepared = checks::all(configs)?;
    let socket = control::socket_path();
    let listener = control::bind(&socket)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the event loop")?;
    let recorder = Arc::new(Recorder {
        sessions: Mutex::default(),
        watch: Watch::new(),
    });
    let (events, received) = mpsc::channel(64);
    let result = start(&recorder, prepared, &events).and_then(|()| {
        let died = events.clone();
        watch::start(&recorder, move |error| {
            // Without a receiver the process is ending already.
            let _ending = died.blocking_send(Event::Failed(error.context("watch the other threads")));
        })?;
        // The base may take hours; what happens meanwhile is captured.
        notify(&[NotifyState::Ready]);
        runtime.block_on(serve(&recorder, listener, received, json))
    });
    if matches!(result, Ok(End::Told)) {
        notify(&[NotifyState::Stopping]);
    }
    let leaves = form == Form::Service && matches!(result, Ok(End::Told));
    let stopped = if leaves {
        eprintln!(
            "the programs stay in the kernel and go on: the next start goes on from here, `recorder detach` takes them out"
        );
        recorder.leave()
    } else {
        // Whatever went wrong, no program stays in the kernel that nobody reads from.
        recorder.detach(None)
    };
    runtime.shutdown_timeout(Duration::from_secs(2));
    recorder.watch.stop();
    leave_state(&recorder, leaves);
    if let Err(error) = std::fs::remove_file(&socket) {
        tracing::debug!("remove {}: {error}", socket.display());
    }
    result?;
    match stopped {
        Err(error) if crate::cli::exit::code_of(&error) != NOTHING_THERE => Err(error),
        Ok(answer) => Ok(say_holes(&answer)),
        Err(_) => Ok(0),
    }
}

/// What a recorder that left its programs in the kernel knew stays for whoever asks; of one that took them out nothing is to be known.
fn leave_state(recorder: &Recorder, leaves: bool) {
    let path = state_path();
    let left = if leaves {
        watch::write_state(
            &path,
            &Report {
                has_ended: true,
                ..recorder.report()
            },
        )
    } else {
        std::fs::remove_file(&path).with_context(|| format!("remove {}", path.display()))
    };
    if let Err(error) = left {
        tracing::debug!("{error:#}");
    }
}

fn start(recorder: &Recorder, prepared: Vec<checks::Prepared>, events: &mpsc::Sender<Event>) -> Result<()> {
    for one in prepared {
        let path = one.config.path.clone();
        let session =
            Session::start(one, events.clone()).with_context(|| format!("attach {}", path.display()))?;
        recorder.lock().push(session);
    }
    Ok(())
}

/// Why the event loop ended.
enum End {
    /// By a signal.
    Told,
    /// Nothing is recorded any more.
    Nothing,
}

/// The event loop: ends when nothing is recorded any more, on a signal, or with the first volume that fails.
async fn serve(
    recorder: &Arc<Recorder>,
    listener: std::os::unix::net::UnixListener,
    mut events: mpsc::Receiver<Event>,
    json: bool,
) -> Result<End> {
    let listener = tokio::net::UnixListener::from_std(listener).context("listen on the control socket")?;
    let operations: Arc<dyn Operations> = Arc::clone(recorder) as Arc<dyn Operations>;
    let mut interrupt = signal(SignalKind::interrupt()).context("catch SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("catch SIGTERM")?;
    let mut tick = tokio::time::interval(SUPERVISION_INTERVAL);
    let (stop, stopped) = tokio::sync::oneshot::channel();
    let server = tokio::spawn(control::serve(listener, operations, stopped));
    let mut looks = 0;
    let _beating = recorder.watch.enter_control();
    let (mut awake, mut watch_stalls) = (Awake::new(), Vec::new());
    let end = loop {
        pulse::beat();
        tokio::select! {
            _ = interrupt.recv() => { eprintln!("interrupted: flushing to the medium"); break End::Told }
            _ = terminate.recv() => { eprintln!("told to stop: flushing to the medium"); break End::Told }
            event = events.recv() => match event {
                Some(Event::Recording(line)) => print_line(&if json { line.to_json() } else { line.to_string() }),
                Some(Event::Failed(error)) => return Err(error),
                None => break End::Nothing,
            },
            _ = tick.tick() => {
                if let Some(error) = recorder.failure() {
                    return Err(error);
                }
                recorder.watch.look_at_watch(awake.look(Instant::now()), &mut watch_stalls);
                if server.is_finished() {
                    anyhow::bail!("the control socket is not served any more");
                }
                looks += 1;
                if looks % LOOKS_PER_MISS_CHECK == 0 {
                    let sessions: Vec<Arc<Session>> = recorder.lock().clone();
                    sessions.iter().try_for_each(|session| session.check_misses())?;
                }
                if recorder.lock().is_empty() {
                    break End::Nothing;
                }
            }
        }
    };
    drop(stop);
    server.await.context("serve the control socket")?;
    Ok(end)
}

impl Recorder {
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Arc<Session>>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failure(&self) -> Option<anyhow::Error> {
        self.lock().iter().find_map(|session| session.failure())
    }

    /// The sessions of the volume that holds `path`, or all.
    fn chosen(&self, path: Option<&Path>) -> Result<Vec<Arc<Session>>> {
        let sessions = self.lock();
        let Some(path) = path else {
            if sessions.is_empty() {
                return Err(coded(NOTHING_THERE, "nothing is recorded here"));
            }
            return Ok(sessions.clone());
        };
        let best = sessions
            .iter()
            .filter(|session| path.starts_with(session.mount_point()))
            .max_by_key(|session| session.mount_point().as_os_str().len());
        best.map(|session| vec![Arc::clone(session)])
            .ok_or_else(|| coded(NOTHING_THERE, format!("{} is not recorded here", path.display())))
    }

    fn each(&self, path: Option<PathBuf>, ask: impl Fn(&Session) -> Result<Value>) -> Result<Value> {
        let volumes = self
            .chosen(path.as_deref())?
            .iter()
            .map(|session| {
                ask(session).with_context(|| format!("volume at {}", session.mount_point().display()))
            })
            .collect::<Result<_>>()?;
        Ok(control::volumes_answer(volumes))
    }

    /// Ends copying to the medium for copies at a place.
    fn eject_copies(&self, at: &Path) -> Result<Value> {
        let sessions: Vec<Arc<Session>> = self.lock().clone();
        let answers: Vec<Value> = sessions
            .iter()
            .filter_map(|session| session.eject_copies(at))
            .collect::<Result<_>>()?;
        if answers.is_empty() {
            let at = at.display();
            return Err(coded(
                NOTHING_THERE,
                format!(
                    "nothing that is recorded here is copied to {at}: no volume has it as a place for copies"
                ),
            ));
        }
        Ok(control::volumes_answer(answers))
    }

    /// Brings everything onto the media and leaves the programs in the kernel.
    fn leave(&self) -> Result<Value> {
        let sessions: Vec<Arc<Session>> = self.lock().clone();
        // All of them, whichever fails.
        let answers: Vec<Result<Value>> = sessions.iter().map(|session| session.leave()).collect();
        Ok(control::volumes_answer(
            answers.into_iter().collect::<Result<_>>()?,
        ))
    }

    fn detach(&self, path: Option<PathBuf>) -> Result<Value> {
        let chosen = self.chosen(path.as_deref())?;
        let mut answers = Vec::new();
        let mut failed = None;
        for session in chosen {
            match session.detach() {
                Ok(answer) => answers.push(answer),
                Err(error) => {
                    failed = Some(error.context(format!("detach {}", session.mount_point().display())));
                }
            }
            self.lock().retain(|other| !Arc::ptr_eq(other, &session));
        }
        failed.map_or_else(|| Ok(control::volumes_answer(answers)), Err)
    }
}

impl Operations for Recorder {
    fn answer(&self, request: Request) -> Result<Value> {
        match request {
            Request::Status {} => serde_json::to_value(self.report()).context("encode the status"),
            Request::Mark { name, path } => {
                crate::config::check_mark_name(&name)?;
                self.each(path, |session| session.mark(&name))
            }
            Request::Flush { wait } => self.each(None, |session| session.flush(wait)),
            Request::Checkpoint { path, live } => self.each(path, |session| session.checkpoint(live)),
            Request::Eject { path, copies: None } => self.each(path, Session::eject),
            Request::Eject {
                path: _,
                copies: Some(at),
            } => self.eject_copies(&at),
            Request::Detach { path } => self.detach(path),
        }
    }
}
