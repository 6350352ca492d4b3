//! Reporters: render events for a person, a log or a program.
