//! Lines on stdout, whole whoever writes them.

use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use serde_json::Value;

/// Where lines go.
pub(super) struct Out {
    to: Mutex<Box<dyn Write + Send>>,
    broken: AtomicBool,
}

impl Out {
    pub(super) fn new(to: Box<dyn Write + Send>) -> Self {
        Self { to: Mutex::new(to), broken: AtomicBool::new(false) }
    }

    /// Writes an object as one line, `id` first.
    pub(super) fn write(&self, id: Option<&Value>, object: Value) {
        let mut line = serde_json::Map::new();
        if let Some(id) = id {
            line.insert("id".to_owned(), id.clone());
        }
        if let Value::Object(object) = object {
            line.extend(object);
        }
        let text = format!("{}\n", Value::Object(line));
        let mut to = self.to.lock().unwrap_or_else(PoisonError::into_inner);
        if to.write_all(text.as_bytes()).and_then(|()| to.flush()).is_err() {
            self.broken.store(true, Ordering::Relaxed);
        }
    }

    /// Whether whoever read the lines is gone.
    pub(super) fn broken(&self) -> bool {
        self.broken.load(Ordering::Relaxed)
    }

    pub(super) fn stdout() -> Self {
        Self::new(Box::new(io::stdout()))
    }
}
