//! What a step uploads.
