//! Things that somebody wants of the engine's thread beside answers, and waits for.

use std::path::PathBuf;
use std::sync::mpsc::SyncSender;

use gemma4_core::engine::EngineError;
use gemma4_core::vault::VaultError;

/// Where the answer goes.
pub(super) type Reply = SyncSender<Result<Moved, ErrandError>>;

/// Something to be done between two steps.
#[derive(Debug)]
pub(super) enum Errand {
    /// Write the longest kept beginning of these tokens to a file.
    Save { tokens: Vec<u32>, path: PathBuf, reply: Reply },
    /// Keep the conversation of a file.
    Restore { path: PathBuf, reply: Reply },
    /// Forget all kept conversations.
    Forget { reply: Reply },
}

impl Errand {
    /// Answers; whoever asked may have left.
    pub(super) fn reply(self, result: Result<Moved, ErrandError>) {
        let (Self::Save { reply, .. } | Self::Restore { reply, .. } | Self::Forget { reply }) = self;
        drop(reply.send(result));
    }
}

/// What was saved, restored or forgotten.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Moved {
    /// Leading tokens; of all conversations, where all were forgotten.
    pub(crate) tokens: usize,
    /// Bytes of their pages.
    pub(crate) bytes: u64,
}

/// Why nothing was.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ErrandError {
    /// The program is ending, or the model is gone.
    #[error("the model is not available")]
    Stopped,
    /// The cache holds nothing of the prompt.
    #[error("nothing of this conversation is kept; generate with it first")]
    NothingKept,
    /// There is no room on the device while requests run.
    #[error(
        "{needed} tokens do not fit into the cache beside what is running; try again later, or raise --pool"
    )]
    NoRoom {
        /// Tokens of the file.
        needed: usize,
    },
    /// The file.
    #[error(transparent)]
    Vault(#[from] VaultError),
    /// The engine failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
}
