//! The terminal's echo. The kernel writes what is typed amid whatever else is on the screen, `^C` included, and a
//! progress bar that somebody wrote behind cannot be taken away.

#[cfg(unix)]
mod echo {
    use std::io;

    use nix::sys::termios::{self, LocalFlags, SetArg, Termios};

    /// While it lives, the terminal does not show what is typed. Ctrl-C still interrupts.
    pub(in crate::run::chat) struct Hidden(Termios);

    impl Hidden {
        /// `None` where stdin is no terminal.
        pub(in crate::run::chat) fn new() -> Option<Self> {
            let before = termios::tcgetattr(io::stdin()).ok()?;
            let mut quiet = before.clone();
            quiet.local_flags.remove(LocalFlags::ECHO | LocalFlags::ECHONL);
            termios::tcsetattr(io::stdin(), SetArg::TCSADRAIN, &quiet).ok()?;
            Some(Self(before))
        }
    }

    impl Drop for Hidden {
        fn drop(&mut self) {
            // A terminal that has gone away needs nothing.
            let _ = termios::tcsetattr(io::stdin(), SetArg::TCSADRAIN, &self.0);
        }
    }
}

#[cfg(not(unix))]
mod echo {
    /// Consoles that are no Unix terminals show nothing while nobody reads.
    pub(in crate::run::chat) struct Hidden;

    impl Hidden {
        /// Nothing to do.
        pub(in crate::run::chat) fn new() -> Option<Self> {
            None
        }
    }
}

pub(super) use echo::Hidden;
