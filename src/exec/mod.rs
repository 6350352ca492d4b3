//! The executor: builds the stale nodes of a plan.
