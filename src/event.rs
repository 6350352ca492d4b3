//! What happens during a run, as data.
