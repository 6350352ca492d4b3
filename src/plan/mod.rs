//! The plan: which images are fresh, which are stale and why.
