//! Where a view that changes is shown: a terminal that is drawn over, or lines one below the other.

use std::io::{self, IsTerminal as _, Read as _, Write as _};
use std::time::Duration;

use rustix::termios::{self, LocalModes, OptionalActions, Termios};
use tokio::sync::watch;

/// To the first line, and clear what is below (ECMA-48: CUP, ED).
const HOME: &str = "\x1b[H\x1b[J";

/// Another screen than the one that the shell writes on, and back (xterm).
const ENTER: &str = "\x1b[?1049h";
const LEAVE: &str = "\x1b[?1049l";

/// Where it is shown.
pub(super) struct Screen {
    drawn_over: bool,
    /// As the terminal was, while single keys are read from it.
    former: Option<Termios>,
    over: watch::Receiver<bool>,
    /// Keeps what is waited for from ending where no key is read.
    _end: watch::Sender<bool>,
}

impl Screen {
    /// A screen; `plain`: nothing is drawn over and no key is read.
    pub(super) fn open(plain: bool) -> Self {
        let (end, over) = watch::channel(false);
        let dumb = std::env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb");
        let drawn_over = !plain && !dumb && io::stdout().is_terminal();
        let former = if drawn_over { single_keys() } else { None };
        if drawn_over {
            let _ = write!(io::stdout(), "{ENTER}{HOME}");
        }
        if former.is_some() {
            let end = end.clone();
            // Ends with the process: a read of the terminal cannot be called off.
            std::thread::spawn(move || {
                let keys = io::stdin().lock().bytes();
                let quits = |byte: io::Result<u8>| matches!(byte, Ok(b'q' | b'Q') | Err(_));
                keys.into_iter().any(quits);
                end.send_replace(true);
            });
        }
        Self { drawn_over, former, over, _end: end }
    }

    /// Waits; whether it goes on.
    pub(super) async fn wait(&mut self, time: Duration) -> bool {
        tokio::select! {
            () = tokio::time::sleep(time) => true,
            _ = self.over.wait_for(|over| *over) => false,
            _ = tokio::signal::ctrl_c() => false,
        }
    }

    /// Shows the next picture; whether anybody looks on.
    pub(super) fn draw(&mut self, text: &str) -> io::Result<bool> {
        let mut out = io::stdout();
        let written = match self.drawn_over {
            true => write!(out, "{HOME}{text}\nq ends\n"),
            false => out.write_all(text.as_bytes()),
        };
        match written.and_then(|()| out.flush()) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
            Err(error) => Err(error),
            Ok(()) => Ok(true),
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        if let Some(former) = &self.former {
            let _ = termios::tcsetattr(io::stdin(), OptionalActions::Now, former);
        }
        if self.drawn_over {
            let _ = write!(io::stdout(), "{LEAVE}");
            let _ = io::stdout().flush();
        }
    }
}

/// Has the terminal hand on each key at once and show none; how it was before.
fn single_keys() -> Option<Termios> {
    let stdin = io::stdin();
    let former = termios::tcgetattr(&stdin).ok()?;
    let mut changed = former.clone();
    changed.local_modes.remove(LocalModes::ICANON | LocalModes::ECHO);
    termios::tcsetattr(&stdin, OptionalActions::Now, &changed).ok()?;
    Some(former)
}
