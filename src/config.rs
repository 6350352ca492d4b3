//! Settings: flags, environment and files, in that order of precedence.
